//! How many replicas to ask for.

/// Half as many again, rounded up, `max_replicas` at most; None where that would be no more than there are.
///
/// The spec's formula; of no replica at all it would make none for ever, so that one is asked for then.
pub fn new_count(current: i64, max_replicas: i64) -> Option<i64> {
    let wanted = current.saturating_add(current.saturating_add(1) / 2).max(1).min(max_replicas);
    (wanted > current).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::new_count;

    #[test]
    fn half_as_many_again_rounded_up_and_capped() {
        for (current, max, expected) in [
            (0, 5, Some(1)),
            (1, 5, Some(2)),
            (2, 5, Some(3)),
            (3, 5, Some(5)),
            (4, 10, Some(6)),
            (5, 10, Some(8)),
            (4, 5, Some(5)),
            (5, 5, None),
            (9, 5, None),
            (i64::MAX, i64::MAX, None),
        ] {
            assert_eq!(new_count(current, max), expected, "{current} of {max}");
        }
    }
}
