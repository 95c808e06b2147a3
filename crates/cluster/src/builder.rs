//! Making a new cluster.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::account::Account;
use crate::lifecycle::{Layout, READY_TIMEOUT};
use crate::watchdog::Watchdog;
use crate::{Cluster, ClusterError, Installation, Version};

/// The port in a socket's name where nothing listens on TCP: directories of their own keep clusters apart.
const SOCKET_PORT: u16 = 5432;

/// Longest socket path, without the closing zero (`sockaddr_un.sun_path` of Linux holds 108 bytes).
const SOCKET_PATH_BYTES_MAX: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.65535";

/// Another process may take a free port before the server does.
const PORT_TRIES_MAX: u32 = 3;

/// How a cluster is to be made; see [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    version: Version,
    preload: bool,
    settings: Vec<(String, String)>,
    databases: Vec<String>,
    tcp: bool,
    primary: Option<Primary>,
}

/// Where a standby gets its data.
#[derive(Clone, Debug)]
struct Primary {
    sockets: PathBuf,
    port: u16,
    /// `application_name` of its WAL receiver.
    name: String,
    /// Whether it has a replication slot, of the same name.
    slot: bool,
}

impl Builder {
    pub(crate) fn new(version: Version) -> Self {
        Self {
            version,
            preload: false,
            settings: Vec::new(),
            databases: Vec::new(),
            tcp: false,
            primary: None,
        }
    }

    /// Whether `shared_preload_libraries` names `ruvector`. Default: no.
    #[must_use]
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// A line of `postgresql.conf`; of two with the same name the later one holds, and all hold over this crate's own.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// A database to create besides `postgres`.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.databases.push(name.into());
        self
    }

    /// Whether to listen on 127.0.0.1, too, at a free port (with `trust`: any user of this machine can then connect).
    /// Default: no, only on a socket in the cluster's own directory.
    #[must_use]
    pub fn listen_tcp(mut self, listen: bool) -> Self {
        self.tcp = listen;
        self
    }

    /// Makes a streaming standby of a running cluster of the same version, under this name, with a replication slot of the
    /// same name or without one. It takes over the primary's settings; those given here hold over them.
    #[must_use]
    pub fn standby_of(mut self, primary: &Cluster, name: impl Into<String>, slot: bool) -> Self {
        let sockets = primary.socket_directory().to_owned();
        self.primary = Some(Primary { sockets, port: primary.port(), name: name.into(), slot });
        self
    }

    /// Starts a throw-away cluster in a new directory, with `fsync = off`. It ends when the value is dropped or this
    /// process ends, in whatever way; then its directory is removed.
    ///
    /// # Errors
    /// [`ClusterError`], among them a version that is not set up. Nothing is left behind then.
    pub fn start(self) -> Result<Cluster, ClusterError> {
        let installation = Installation::find(self.version)?;
        let parent = short_temporary_directory();
        let directory = temporary_directory(&parent)?;
        let layout = Layout::new(directory.clone(), directory, SOCKET_PORT, self.tcp);
        let watchdog = Watchdog::start(&layout.directory, &layout.data).map_err(|source| {
            let _ = fs::remove_dir_all(&layout.directory);
            ClusterError::Program { program: "/bin/sh".into(), source }
        })?;
        let account = Account::for_new(&[installation.program("postgres").as_path(), &parent])?;
        // Nobody's life depends on it, and it would cost more than all the rest. Shared memory in files of the data
        // directory cannot outlive it, as segments of /dev/shm do when the postmaster is killed.
        let own = [("fsync", "off"), ("dynamic_shared_memory_type", "mmap")];
        self.make(installation, account, layout, Some(watchdog), &own)
    }

    /// Makes and starts a cluster that lasts: it goes on when the value is dropped and when this process ends.
    /// `fsync` is on. The directory must be absent or empty; [`Cluster::open_at`] finds the cluster again.
    ///
    /// # Errors
    /// [`ClusterError`]; [`ClusterError::NotEmpty`] where something is there already.
    pub fn create_at(self, directory: impl AsRef<Path>) -> Result<Cluster, ClusterError> {
        let directory = directory.as_ref();
        let installation = Installation::find(self.version)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(ClusterError::file("create", directory))?;
        let directory = directory.canonicalize().map_err(ClusterError::file("find", directory))?;
        let mut entries = directory.read_dir().map_err(ClusterError::file("read", &directory))?;
        if entries.next().is_some() {
            return Err(ClusterError::NotEmpty { directory });
        }
        let account = Account::for_new(&[
            installation.program("postgres").as_path(),
            directory.parent().unwrap_or_else(|| Path::new("/")),
        ])?;
        let sockets = if fits_socket(&directory) {
            directory.clone()
        } else {
            temporary_directory(&short_temporary_directory())?
        };
        let layout = Layout::new(directory, sockets, SOCKET_PORT, self.tcp);
        let made = self.make(installation, account, layout.clone(), None, &[]);
        if made.is_err() {
            layout.remove_content();
        }
        made
    }

    fn make(
        self,
        installation: Installation,
        account: Account,
        mut layout: Layout,
        watchdog: Option<Watchdog>,
        own_settings: &[(&str, &str)],
    ) -> Result<Cluster, ClusterError> {
        account.give(&layout.directory)?;
        account.give(&layout.sockets)?;
        match &self.primary {
            None => initdb(&installation, &account, &layout)?,
            Some(primary) => base_backup(&installation, &account, &layout, primary)?,
        }
        if self.tcp {
            layout.port = free_port()?;
        }
        append_configuration(&layout, &self.configuration(&layout, own_settings))?;
        layout.save()?;

        let cluster = Cluster::assemble(installation, account, layout, watchdog);
        self.launch(cluster)
    }

    fn launch(self, mut cluster: Cluster) -> Result<Cluster, ClusterError> {
        for tries_left in (0..PORT_TRIES_MAX).rev() {
            cluster.launch()?;
            match cluster.wait_ready(READY_TIMEOUT) {
                Ok(()) => break,
                Err(ClusterError::Ended { log })
                    if tries_left > 0 && log.contains("Address already in use") =>
                {
                    cluster.layout.port = free_port()?;
                    append_configuration(&cluster.layout, &format!("port = {}\n", cluster.layout.port))?;
                    cluster.layout.save()?;
                }
                Err(error) => {
                    // A lasting cluster has no watchdog that would do it.
                    cluster.kill_if_running();
                    return Err(error);
                }
            }
        }
        let mut client = cluster.connect("postgres")?;
        for name in &self.databases {
            let quoted = name.replace('"', "\"\"");
            client
                .batch_execute(&format!("CREATE DATABASE \"{quoted}\""))
                .map_err(ClusterError::sql(format!("cannot create the database {name}")))?;
        }
        Ok(cluster)
    }

    fn configuration(&self, layout: &Layout, own_settings: &[(&str, &str)]) -> String {
        let mut text = String::from("\n# Set by the crate `cluster`.\n");
        let mut line = |name: &str, value: &str| {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        };
        line("port", &layout.port.to_string());
        line("listen_addresses", if layout.tcp { "127.0.0.1" } else { "" });
        line("unix_socket_directories", &layout.sockets.to_string_lossy());
        line("log_line_prefix", "%m [%p] %b %q%a@%d ");
        if self.preload {
            line("shared_preload_libraries", "ruvector");
        }
        for (name, value) in own_settings {
            line(name, value);
        }
        for (name, value) in &self.settings {
            line(name, value);
        }
        text
    }
}

fn initdb(installation: &Installation, account: &Account, layout: &Layout) -> Result<(), ClusterError> {
    let output = account
        .command(installation, "initdb")
        .args(["-A", "trust", "-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&layout.data)
        .current_dir("/") // the caller's may be closed to the server's account
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ClusterError::Program { program: "initdb".into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(ClusterError::DataDirectory {
        program: "initdb",
        output: String::from_utf8_lossy(&text).trim().to_owned(),
    })
}

fn base_backup(
    installation: &Installation,
    account: &Account,
    layout: &Layout,
    primary: &Primary,
) -> Result<(), ClusterError> {
    let Primary { sockets, port, name, slot } = primary;
    let mut command = account.command(installation, "pg_basebackup");
    command
        .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--dbname"])
        .arg(format!("host={} port={port} user=postgres application_name={name}", sockets.display()))
        .arg("--pgdata")
        .arg(&layout.data);
    if *slot {
        command.args(["--create-slot", "--slot", name]);
    }
    let output = command
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ClusterError::Program { program: "pg_basebackup".into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(ClusterError::DataDirectory {
        program: "pg_basebackup",
        output: String::from_utf8_lossy(&text).trim().to_owned(),
    })
}

fn append_configuration(layout: &Layout, text: &str) -> Result<(), ClusterError> {
    let path = layout.data.join("postgresql.conf");
    let append =
        || -> io::Result<()> { fs::File::options().append(true).open(&path)?.write_all(text.as_bytes()) };
    append().map_err(ClusterError::file("write", &path))
}

/// A port which nothing on 127.0.0.1 listens at just now.
fn free_port() -> Result<u16, ClusterError> {
    let ask = || TcpListener::bind(("127.0.0.1", 0))?.local_addr();
    let address = ask().map_err(ClusterError::file("find a free port on", Path::new("127.0.0.1")))?;
    Ok(address.port())
}

fn fits_socket(directory: &Path) -> bool {
    directory.as_os_str().len() + "/".len() + SOCKET_NAME.len() <= SOCKET_PATH_BYTES_MAX
}

/// The user's folder for temporary files, or /tmp where its name is too long for a socket below it.
fn short_temporary_directory() -> PathBuf {
    let usual = std::env::temp_dir();
    let usual = usual.canonicalize().unwrap_or(usual);
    if fits_socket(&usual.join("ruvector-123456")) { usual } else { PathBuf::from("/tmp") }
}

fn temporary_directory(parent: &Path) -> Result<PathBuf, ClusterError> {
    let made = tempfile::Builder::new().prefix("ruvector-").tempdir_in(parent);
    made.map(tempfile::TempDir::keep).map_err(ClusterError::file("create a directory in", parent))
}
