//! The real embeddings in `data/`: 12,000 Debian packages, 384 dimensions, unit length. See `data/README.md`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use half::f16;
use postgres::GenericClient;

use crate::repository;

const EMBEDDINGS_FILE: &str = "debian-packages-minilm-12000x384-f16.npy";
/// Noise of a jittered value at most: a real one is 0.05 in the mean square.
const JITTER: f32 = 0.03;
const PACKAGES_FILE: &str = "debian-packages.tsv.gz";

/// The data set could not be read or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// No folder `data` was found.
    #[error(
        "the folder `data` was not found\n  hint: run inside the repository or set RUVECTOR_DATA_DIR to it"
    )]
    NotFound,
    /// A file cannot be read.
    #[error("cannot read {}: {source}\n  hint: restore it with `git checkout -- data`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}\n  hint: restore it with `git checkout -- data`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Rows were asked for that are not there.
    #[error("rows {}..{} were asked for, but there are {rows}", range.start, range.end)]
    OutOfRange {
        /// What was asked for.
        range: Range<usize>,
        /// How many there are.
        rows: usize,
    },
    /// The table did not take the rows.
    #[error("cannot load rows into {table}")]
    Load {
        /// The table as the caller wrote it.
        table: String,
        /// The driver's error, which holds the server's.
        source: postgres::Error,
    },
    /// The connection broke while rows were sent.
    #[error("cannot send rows to {table}")]
    Send {
        /// The table as the caller wrote it.
        table: String,
        /// The reason.
        source: io::Error,
    },
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// Its section, such as `libs` or `python`: the natural groups of the data.
    pub section: String,
    /// Its one-line description.
    pub description: String,
}

/// A column of the table to fill, with what goes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column<'a> {
    /// The row number, from 0.
    Id(&'a str),
    /// The embedding, as pgvector's `vector` or `halfvec`.
    Embedding(&'a str),
    /// The first so many dimensions of the embedding, as pgvector's `vector` or `halfvec`: real rows at less cost.
    Head(&'a str, usize),
    /// The package's name.
    Name(&'a str),
    /// The package's section.
    Section(&'a str),
    /// The package's description.
    Description(&'a str),
}

impl Column<'_> {
    /// The columns `id` and `embedding`.
    pub const ID_AND_EMBEDDING: [Column<'static>; 2] = [Column::Id("id"), Column::Embedding("embedding")];

    fn name(&self) -> &str {
        match self {
            Self::Id(name)
            | Self::Embedding(name)
            | Self::Head(name, _)
            | Self::Name(name)
            | Self::Section(name)
            | Self::Description(name) => name,
        }
    }
}

/// All embeddings, in memory (18 MB).
#[derive(Clone, Debug)]
pub struct Embeddings {
    rows: usize,
    dims: usize,
    values: Vec<f32>,
    packages: Vec<Package>,
}

impl Embeddings {
    /// Reads the data set: from `RUVECTOR_DATA_DIR` if that is set, else from the folder `data` of the repository
    /// around the running package or the current folder.
    ///
    /// # Errors
    /// [`DatasetError`] when it is absent or damaged.
    pub fn load() -> Result<Self, DatasetError> {
        let folder = repository::folder("RUVECTOR_DATA_DIR", "data").ok_or(DatasetError::NotFound)?;
        Self::load_from(&folder)
    }

    fn load_from(folder: &Path) -> Result<Self, DatasetError> {
        let (rows, dims, values) = read_npy(&folder.join(EMBEDDINGS_FILE))?;
        let path = folder.join(PACKAGES_FILE);
        let packages = read_packages(&path)?;
        if packages.len() != rows {
            let reason = format!("{} packages for {rows} embeddings", packages.len());
            return Err(DatasetError::Malformed { path, reason });
        }
        Ok(Self { rows, dims, values, packages })
    }

    /// Number of embeddings.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of dimensions of each.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// An embedding by row number.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dims..(row + 1) * self.dims]
    }

    /// What a row is about.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn package(&self, row: usize) -> &Package {
        &self.packages[row]
    }

    /// An embedding as pgvector writes it, `[0.1,0.2,…]`, exact to the last bit.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn literal(&self, row: usize) -> String {
        literal(self.row(row))
    }

    /// A row of a data set as large as one likes: the first `dims` values of a real embedding with noise that differs from
    /// row to row (a third of their own spread: the groups of the data stay what they are). The same arguments give the same
    /// row; another `salt` gives another row near it.
    ///
    /// # Panics
    /// When `dims` is more than there are.
    pub fn jittered(&self, row: usize, dims: usize, salt: u64) -> Vec<f32> {
        let mut state =
            (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mut noise = || {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            // The upper 24 bits fit a f32 exactly.
            ((z >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.0 * JITTER
        };
        self.row(row % self.rows)[..dims].iter().map(|value| value + noise()).collect()
    }

    /// The same as pgvector writes it.
    ///
    /// # Panics
    /// As [`Self::jittered`].
    pub fn jittered_literal(&self, row: usize, dims: usize, salt: u64) -> String {
        let values: Vec<String> = self.jittered(row, dims, salt).iter().map(f32::to_string).collect();
        format!("[{}]", values.join(","))
    }

    /// Copies jittered rows into a table `(id int, embedding vector(dims))`, in PostgreSQL's binary format: a million rows
    /// take seconds.
    ///
    /// # Errors
    /// [`DatasetError`]; no row is in the table then.
    pub fn load_jittered(
        &self,
        client: &mut impl GenericClient,
        table: &str,
        dims: usize,
        range: Range<usize>,
    ) -> Result<u64, DatasetError> {
        let load_failed = |source| DatasetError::Load { table: table.to_owned(), source };
        let send_failed = |source| DatasetError::Send { table: table.to_owned(), source };
        let mut writer =
            client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)")).map_err(load_failed)?;
        // Signature, flags, length of the header's extension.
        writer.write_all(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0").map_err(send_failed)?;
        let mut tuple = Vec::new();
        for row in range {
            tuple.clear();
            tuple.extend(2i16.to_be_bytes());
            tuple.extend(4i32.to_be_bytes());
            // Ids and dimensions are small numbers.
            tuple.extend((row as i32).to_be_bytes());
            tuple.extend((4 + 4 * dims as i32).to_be_bytes());
            tuple.extend((dims as u16).to_be_bytes());
            tuple.extend(0u16.to_be_bytes());
            for value in self.jittered(row, dims, 0) {
                tuple.extend(value.to_be_bytes());
            }
            writer.write_all(&tuple).map_err(send_failed)?;
        }
        writer.write_all(&(-1i16).to_be_bytes()).map_err(send_failed)?;
        writer.finish().map_err(load_failed)
    }

    /// Copies rows into a table that is there already, and returns how many. `table` is SQL, so it may be qualified
    /// or quoted; `columns` says which column takes what, others take their default.
    ///
    /// # Errors
    /// [`DatasetError`]; no row is in the table then.
    pub fn load_into(
        &self,
        client: &mut impl GenericClient,
        table: &str,
        columns: &[Column<'_>],
        range: Range<usize>,
    ) -> Result<u64, DatasetError> {
        if range.end > self.rows {
            return Err(DatasetError::OutOfRange { range, rows: self.rows });
        }
        let names: Vec<String> = columns.iter().map(|column| quoted(column.name())).collect();
        // As text: it fits whatever type the table gives to the number, and pgvector's vector and halfvec alike.
        let statement = format!("COPY {table} ({}) FROM STDIN", names.join(", "));
        let load_failed = |source| DatasetError::Load { table: table.to_owned(), source };
        let mut writer = client.copy_in(&statement).map_err(load_failed)?;
        for row in range {
            let fields: Vec<String> = columns.iter().map(|column| self.field(row, column)).collect();
            writeln!(writer, "{}", fields.join("\t"))
                .map_err(|source| DatasetError::Send { table: table.to_owned(), source })?;
        }
        writer.finish().map_err(load_failed)
    }

    fn field(&self, row: usize, column: &Column<'_>) -> String {
        match column {
            Column::Id(_) => row.to_string(),
            Column::Embedding(_) => self.literal(row),
            Column::Head(_, dims) => literal(&self.row(row)[..(*dims).min(self.dims)]),
            Column::Name(_) => escaped(&self.packages[row].name),
            Column::Section(_) => escaped(&self.packages[row].section),
            Column::Description(_) => escaped(&self.packages[row].description),
        }
    }
}

fn literal(values: &[f32]) -> String {
    let values: Vec<String> = values.iter().map(f32::to_string).collect();
    format!("[{}]", values.join(","))
}

fn read_npy(path: &Path) -> Result<(usize, usize, Vec<f32>), DatasetError> {
    let failed = |source| DatasetError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let npy = npyz::NpyFile::new(BufReader::new(file)).map_err(failed)?;
    let malformed = |reason: String| DatasetError::Malformed { path: path.to_owned(), reason };
    let (&[rows, dims], npyz::Order::C) = (npy.shape(), npy.order()) else {
        return Err(malformed(format!("not a matrix in row order: {:?} {:?}", npy.shape(), npy.order())));
    };
    let (Ok(rows), Ok(dims)) = (usize::try_from(rows), usize::try_from(dims)) else {
        return Err(malformed(format!("{rows} × {dims} does not fit into memory")));
    };
    let halves = npy.data::<f16>().map_err(|error| malformed(error.to_string()))?;
    let values =
        halves.map(|value| value.map(f16::to_f32)).collect::<io::Result<Vec<f32>>>().map_err(failed)?;
    Ok((rows, dims, values))
}

/// Lines of number, name, section, description, after a line with these words.
fn read_packages(path: &Path) -> Result<Vec<Package>, DatasetError> {
    let failed = |source| DatasetError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut packages = Vec::new();
    for line in BufReader::new(GzDecoder::new(file)).lines().skip(1) {
        let line = line.map_err(failed)?;
        let fields: Vec<&str> = line.split('\t').collect();
        let expected = packages.len().to_string();
        match fields[..] {
            [number, name, section, description] if number == expected => packages.push(Package {
                name: name.to_owned(),
                section: section.to_owned(),
                description: description.to_owned(),
            }),
            _ => {
                let reason =
                    format!("line {} does not start with {expected} and three fields", packages.len() + 2);
                return Err(DatasetError::Malformed { path: path.to_owned(), reason });
            }
        }
    }
    Ok(packages)
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// As COPY's text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_set_is_whole() {
        let embeddings = Embeddings::load().unwrap();
        assert_eq!((embeddings.rows(), embeddings.dims()), (12_000, 384));
        for row in [0, 1, 6_000, 11_999] {
            let length: f32 = embeddings.row(row).iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-3, "row {row} has length {length}");
        }
        assert!(!embeddings.package(11_999).section.is_empty());
    }

    #[test]
    fn jittered_rows_are_near_their_embedding_and_differ() {
        let embeddings = Embeddings::load().unwrap();
        let near = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let (first, again) = (embeddings.jittered(7, 128, 0), embeddings.jittered(7 + 12_000, 128, 0));
        assert_eq!(first, embeddings.jittered(7, 128, 0));
        assert!(first != again && first != embeddings.jittered(7, 128, 1));
        for row in [&first, &again] {
            let cosine = near(row, &embeddings.row(7)[..128]);
            assert!((0.85..0.999).contains(&cosine), "{cosine}");
        }
    }

    #[test]
    fn copy_text_is_escaped() {
        assert_eq!(escaped("a\tb\\c\nd"), "a\\tb\\\\c\\nd");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
