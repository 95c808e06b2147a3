//! The way back from contracted graphs, against following every node.

use super::Trail;
use crate::scan::VISITED;
use crate::tests::families::Random;

#[test]
fn sides_are_found_back_and_the_memory_stays_bounded() {
    let mut trail = Trail::default();
    for seed in 0..40 {
        let mut random = Random(seed);
        let nodes = 3 + random.below(60);
        trail.reset(nodes);
        assert_eq!(trail.value(), u64::MAX);
        // Where each of the caller's nodes is at present.
        let mut at: Vec<u32> = (0..nodes as u32).collect();
        let (mut present, mut best, mut expected) = (nodes, u64::MAX, Vec::new());
        while present > 1 {
            for _ in 0..random.below(3) {
                let side: Vec<u32> = (0..present as u32).filter(|_| random.below(3) == 0).collect();
                let value = (present * 10 + random.below(40)) as u64;
                trail.found(value, &side);
                if value < best {
                    best = value;
                    expected = at.iter().map(|node| side.contains(node)).collect();
                }
                assert_eq!(trail.value(), best);
                assert_eq!(trail.side(), expected);
            }
            // Mostly one pair becomes one node, at times all pairs do.
            let classes: Vec<u32> = if random.below(20) == 0 {
                (0..present as u32).map(|node| node / 2).collect()
            } else {
                let kept = random.below(present - 1) as u32;
                (0..present as u32).map(|node| if node > kept { node - 1 } else { node }).collect()
            };
            let marked: Vec<u32> = classes.iter().map(|class| class | VISITED).collect();
            present = classes.iter().max().map_or(0, |&last| last as usize + 1);
            trail.contracted(&marked, present);
            for node in &mut at {
                *node = classes[*node as usize];
            }
            if best < u64::MAX {
                assert_eq!(trail.side(), expected);
            }
            assert!(trail.maps.len() <= 4 * nodes, "{} entries for {nodes} nodes", trail.maps.len());
        }
    }
}
