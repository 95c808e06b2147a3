//! Names that an interrupted `REINDEX CONCURRENTLY` leaves (`ReindexRelationConcurrently` of `indexcmds.c`): the new index
//! is called like the old one with `_ccnew`, after the exchange the old one with `_ccold`, each with a number where the
//! name was taken (`ChooseRelationName`) and the stem cut where it would be too long (`makeObjectName`).

/// Longest name, bytes (`NAMEDATALEN` − 1).
const NAME_MAX: usize = 63;
/// Bytes by which a cut name may be shorter: no character is cut in two.
const CHARACTER_MAX: usize = 3;

/// The name that an index had before one of the endings was added, perhaps cut; None for any other name.
fn stem(name: &str) -> Option<&str> {
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = bare.strip_suffix("_ccnew").or_else(|| bare.strip_suffix("_ccold"))?;
    (!stem.is_empty()).then_some(stem)
}

/// Whether a reindex of `index` names its leftover so. A name alone is no proof: somebody may have called an index so.
pub fn is_named_after(leftover: &str, index: &str) -> bool {
    stem(leftover).is_some_and(|stem| {
        stem == index
            || index.starts_with(stem) && (NAME_MAX - CHARACTER_MAX..=NAME_MAX).contains(&leftover.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_known_by_its_own_index_only() {
        for (leftover, index) in [
            ("docs_i_ccnew", "docs_i"),
            ("docs_i_ccold", "docs_i"),
            ("docs_i_ccnew12", "docs_i"),
            ("docs_i_ccnew_ccnew", "docs_i_ccnew"),
        ] {
            assert!(is_named_after(leftover, index), "{leftover} of {index}");
        }
        for (leftover, index) in [
            ("docs_i_ccnew", "docs_i2"),
            ("docs_i2_ccnew", "docs_i"),
            ("docs_i", "docs_i"),
            ("_ccnew", "docs_i"),
            ("docs_i_ccnew_x", "docs_i"),
            ("docs_i_ccnew_ccnew", "docs_i"),
        ] {
            assert!(!is_named_after(leftover, index), "{leftover} of {index}");
        }
    }

    #[test]
    fn a_long_name_is_cut_before_the_ending() {
        let index = "a".repeat(63);
        assert!(is_named_after(&format!("{}_ccnew", "a".repeat(57)), &index));
        assert!(is_named_after(&format!("{}_ccnew1", "a".repeat(56)), &index));
        assert!(
            !is_named_after(&format!("{}_ccnew", "a".repeat(40)), &index),
            "it is not as long as it may be"
        );
        // Two bytes a character: the cut is one byte earlier.
        let umlauts = "ä".repeat(31);
        assert!(is_named_after(&format!("{}_ccold", "ä".repeat(28)), &umlauts));
    }
}
