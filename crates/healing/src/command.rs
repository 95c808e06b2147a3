//! What a job of pg_cron runs, as far as it must be read: whether that is one statement, and which.

/// Whether a command is one statement; semicolons without anything between them and comments are none. What cannot be read for
/// certain (quotes or a comment without an end, a backslash in a string, a string in dollars) counts as more.
pub fn is_one_statement(command: &str) -> bool {
    let mut statements = 0;
    // Something was said since the last semicolon.
    let mut begun = false;
    let mut before = ' ';
    let mut rest = command;
    while let Some(next) = rest.chars().next() {
        let (length, says) = match next {
            ';' => {
                begun = false;
                (Some(1), false)
            }
            '-' if rest.starts_with("--") => (Some(rest.find(['\n', '\r']).unwrap_or(rest.len())), false),
            '/' if rest.starts_with("/*") => (comment(rest), false),
            '\'' | '"' => (quoted(rest, next), true),
            '$' if !is_of_word(before) => (None, true),
            _ => (Some(next.len_utf8()), !next.is_whitespace()),
        };
        let Some(length) = length else { return false };
        statements += u32::from(says && !begun);
        begun |= says;
        before = next;
        rest = &rest[length..];
    }
    statements == 1
}

/// The first word of a command in small letters, whatever stands before it that says nothing; empty where that is none.
pub fn verb(command: &str) -> String {
    let mut rest = command;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        let length = match rest {
            line if line.starts_with("--") => Some(line.find(['\n', '\r']).unwrap_or(line.len())),
            text if text.starts_with("/*") => comment(text),
            _ => break,
        };
        let Some(length) = length else { return String::new() };
        rest = &rest[length..];
    }
    rest.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase()
}

/// A dollar after one of these is a letter (`ident_cont`, scan.l).
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Bytes of the comment at the beginning, which may hold others; None: it has no end.
fn comment(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0u32, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    None
}

/// Bytes of what is quoted at the beginning; None: it has no end, or a backslash may say where that is. A quote that is written
/// twice ends one and begins another, which comes to the same end.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let end = text[1..].find(quote)? + 2;
    (quote == '"' || !text[..end].contains('\\')).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_is_told_from_several() {
        for one in [
            "VACUUM docs",
            "VACUUM docs;",
            " ;; VACUUM docs ; ; ",
            "VACUUM docs; -- nightly; of docs",
            "VACUUM docs -- it's nightly\n;\n/* and; /* once; */ more; */",
            "/* first; */ VACUUM (VERBOSE) docs",
            r#"VACUUM "a;b", "c""d;", "e\""#,
            r#"VACUUM "a -- b""#,
            "VACUUM (INDEX_CLEANUP 'auto;', PARALLEL 2) docs",
            "VACUUM docs$1;",
            "VACUUM größe;",
        ] {
            assert!(is_one_statement(one), "{one}");
        }
        for several in [
            "ANALYZE docs; CALL nightly_etl()",
            "ANALYZE docs;CALL nightly_etl();",
            "VACUUM docs; -- nightly\nCALL nightly_etl()",
            "VACUUM docs /* ; */ ; SELECT 1",
            r#"VACUUM "a--b"; CALL nightly_etl()"#,
            "VACUUM (INDEX_CLEANUP '--') docs; CALL nightly_etl()",
            r#"VACUUM (INDEX_CLEANUP 'it''s "') docs; CALL nightly_etl(); --""#,
            "VACUUM docs; VACUUM notes",
        ] {
            assert!(!is_one_statement(several), "{several}");
        }
    }

    #[test]
    fn the_first_word_is_found_behind_what_says_nothing() {
        for (command, word) in [
            ("VACUUM docs", "vacuum"),
            (" ;; Reindex (VERBOSE) TABLE docs", "reindex"),
            ("-- it's nightly; of docs\nCLUSTER;", "cluster"),
            ("/* first; /* of */ two */ analyze", "analyze"),
            ("VACUUM(FULL) docs", "vacuum"),
            ("\"VACUUM\"", ""),
            ("/* VACUUM docs", ""),
            ("-- VACUUM docs", ""),
            ("", ""),
        ] {
            assert_eq!(verb(command), word, "{command}");
        }
    }

    #[test]
    fn what_cannot_be_read_for_certain_counts_as_more() {
        for unclear in [
            "",
            " ; ",
            "-- VACUUM docs",
            r#"VACUUM "docs"#,
            "VACUUM docs /* nightly",
            "VACUUM docs /* /* nightly */",
            "VACUUM (INDEX_CLEANUP 'auto) docs",
            r"VACUUM (INDEX_CLEANUP E'\') docs; CALL nightly_etl(); --')",
            "DO $$ BEGIN PERFORM 1; END $$",
            "DO $a$ BEGIN PERFORM 1; END $a$",
        ] {
            assert!(!is_one_statement(unclear), "{unclear}");
        }
    }
}
