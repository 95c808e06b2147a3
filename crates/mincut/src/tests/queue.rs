//! The bucket queue against a list.

use super::families::Random;
use crate::queue::{Buckets, KEY_BITS_MAX};
use crate::scan::{Keys, VISITED};

#[test]
fn the_newest_of_the_highest_key_comes_first() {
    let mut random = Random(3);
    let mut buckets = Buckets::default();
    for bits in [1, 6, 7, 12, 13, KEY_BITS_MAX] {
        for _ in 0..10 {
            let keys = 1 + random.below(1 << bits);
            buckets.reset(keys as u32);
            assert_eq!(buckets.pop(), None);
            let mut list: Vec<(u32, u32)> = Vec::new();
            let take = |buckets: &mut Buckets, list: &mut Vec<(u32, u32)>| {
                let newest = (0..list.len()).max_by_key(|&at| (list[at].1, at));
                assert_eq!(buckets.pop(), newest.map(|at| list.remove(at)), "{keys} keys");
            };
            let mut most = 0;
            for node in 0..300 {
                if random.below(3) > 0 {
                    // Often one of few, so that keys are shared; otherwise any.
                    let below_top = if random.below(2) == 0 { random.below(keys) } else { random.below(3) };
                    let key = (keys - 1).saturating_sub(below_top) as u32;
                    buckets.push(node, key);
                    list.push((node, key));
                    most = most.max(list.len());
                } else {
                    take(&mut buckets, &mut list);
                }
            }
            assert_eq!(buckets.pool_len(), most, "places are used again");
            while !list.is_empty() {
                take(&mut buckets, &mut list);
            }
            assert_eq!(buckets.pop(), None);
        }
    }
}

/// Keys that grow while their nodes wait: the valid entry of the highest key comes next, before and after a sweep.
#[test]
fn stale_entries_are_skipped_and_swept_out() {
    let mut random = Random(4);
    let mut buckets = Buckets::default();
    let (nodes, threshold) = (40, 5000);
    for _ in 0..30 {
        buckets.reset(threshold);
        let mut keys = vec![0u32; nodes];
        for step in 0..400 {
            let node = random.below(nodes);
            if keys[node] & VISITED == 0 {
                let grown = keys[node] + 1 + random.below(300) as u32;
                keys[node] = if grown < threshold { grown } else { VISITED };
                if grown < threshold {
                    buckets.push(node as u32, grown);
                }
            }
            if step % 50 == 49 {
                buckets.refill(threshold, &keys);
                let waiting = keys.iter().filter(|&&key| key > 0 && key < threshold).count();
                assert_eq!(buckets.pool_len(), waiting);
            }
            if step % 7 == 6 {
                let highest = keys.iter().copied().filter(|&key| key > 0 && key < threshold).max();
                let popped = buckets.pop_valid(&keys);
                assert_eq!(popped.map(|node| keys[node as usize]), highest);
                if let Some(node) = popped {
                    keys[node as usize] = VISITED;
                }
            }
        }
    }
}

/// Weights are rounded down and the bound up, by the least shift for which it has so many bits.
#[test]
fn keys_are_rounded_to_the_safe_side() {
    let mut random = Random(5);
    for _ in 0..2000 {
        let bound = 1 + random.next() % (1 << (1 + random.below(61)));
        let bits = 2 + random.below(17) as u32;
        let nodes = random.below(1000);
        let Keys { shift, threshold, pool_max } = Keys::new(bound, bits, nodes);
        assert_eq!(u64::from(threshold), bound.div_ceil(1 << shift), "{bound} {bits}");
        assert!(bound >> shift < 1 << bits, "{bound} {bits}");
        assert!(shift == 0 || bound >> (shift - 1) >= 1 << bits, "finer keys would do: {bound} {bits}");
        assert_eq!(pool_max, 2 * nodes + 1024);
    }
}
