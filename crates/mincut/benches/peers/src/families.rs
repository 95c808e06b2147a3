//! The graphs of the comparison, each made from a fixed seed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// An edge list and its number of nodes.
pub struct Instance {
    pub name: String,
    pub nodes: usize,
    pub edges: Vec<(u32, u32, f64)>,
}

impl Instance {
    /// Where the graph is written.
    pub fn file_in(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.txt", self.name.replace(' ', "_")))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same stream on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A real weight in [0.1, 1).
    pub fn weight(&mut self) -> f64 {
        0.1 + 0.9 * self.unit()
    }
}

/// Edges without loops or repeats.
struct Builder {
    seen: HashSet<(u32, u32)>,
    edges: Vec<(u32, u32, f64)>,
}

impl Builder {
    fn new() -> Self {
        Self { seen: HashSet::new(), edges: Vec::new() }
    }

    fn add(&mut self, u: usize, v: usize, weight: f64) -> bool {
        let (a, b) = (u.min(v) as u32, u.max(v) as u32);
        let fresh = a != b && self.seen.insert((a, b));
        if fresh {
            self.edges.push((a, b, weight));
        }
        fresh
    }

    fn finish(self, name: String, nodes: usize, random: &mut Random) -> Instance {
        // Node numbers and edge order say nothing about the structure: nobody profits from the generator's order.
        let mut label: Vec<u32> = (0..nodes as u32).collect();
        for at in (1..nodes).rev() {
            label.swap(at, random.below(at + 1));
        }
        let mut edges = self.edges;
        for at in (1..edges.len()).rev() {
            edges.swap(at, random.below(at + 1));
        }
        for edge in &mut edges {
            *edge = (label[edge.0 as usize], label[edge.1 as usize], edge.2);
        }
        Instance { name, nodes, edges }
    }
}

/// Communities of 32 nodes and about 253 edges each, joined by a ring and random edges: four joints a community.
pub fn communities(nodes: usize, seed: u64) -> Instance {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    let groups = nodes / 32;
    let nodes = groups * 32;
    for group in 0..groups {
        let base = group * 32;
        let mut placed = 0;
        while placed < 252 {
            let (u, v) = (base + random.below(32), base + random.below(32));
            placed += usize::from(builder.add(u, v, random.weight()));
        }
        builder.add(base + random.below(32), (base + 32) % nodes + random.below(32), random.weight());
        for _ in 0..3 {
            builder.add(base + random.below(32), random.below(nodes), random.weight());
        }
    }
    builder.finish(format!("communities {nodes}"), nodes, &mut random)
}

/// Uniformly random graph with a given number of edges.
pub fn gnm(nodes: usize, edges: usize, seed: u64) -> Instance {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    let mut placed = 0;
    while placed < edges {
        let (u, v) = (random.below(nodes), random.below(nodes));
        placed += usize::from(builder.add(u, v, random.weight()));
    }
    builder.finish(format!("gnm {nodes} {edges}"), nodes, &mut random)
}

/// Preferential attachment, eight edges a new node.
pub fn power_law(nodes: usize, seed: u64) -> Instance {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    // Every end of every edge: drawing from it is drawing by degree.
    let mut ends: Vec<u32> = Vec::new();
    for node in 0..nodes {
        let wanted = node.min(8);
        let mut placed = 0;
        while placed < wanted {
            let other = if node <= 8 { placed } else { ends[random.below(ends.len())] as usize };
            if builder.add(node, other, random.weight()) {
                ends.extend([node as u32, other as u32]);
                placed += 1;
            }
        }
    }
    builder.finish(format!("power law {nodes}"), nodes, &mut random)
}

/// Complete graph.
pub fn clique(nodes: usize, seed: u64) -> Instance {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    for u in 0..nodes {
        for v in 0..u {
            builder.add(u, v, random.weight());
        }
    }
    builder.finish(format!("clique {nodes}"), nodes, &mut random)
}

/// The graph a monitor makes of a partitioned vector collection: a core joined to partitions, the partitions of one
/// server to each other, each to its centroid groups and its index; replicas, maintenance jobs, slots and memory.
/// Healthy capacities sum to one around every part, and each is weakened by a health in (0.7, 1]; a few parts are
/// sick.
pub fn monitor(nodes: usize, seed: u64) -> Instance {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    let groups = if nodes < 200 { 4 } else { 16 };
    // A partition brings itself, its groups, its index, and every fourth one a job.
    let partitions = ((nodes.saturating_sub(8)) * 4 / (4 * (groups + 2) + 1)).max(2);
    let (core, slots, memory) = (0, 1, 2);
    let mut next = 3;
    let mut health =
        |sick: f64| if random.unit() < sick { 0.3 * random.unit() } else { 1.0 - 0.3 * random.unit() };
    builder.add(core, slots, health(0.0));
    builder.add(core, memory, health(0.0));
    for _ in 0..4 {
        builder.add(core, next, health(0.05));
        next += 1;
    }
    let first = next;
    next += partitions;
    let share = 1.0 / partitions as f64;
    let sides = 6.min(partitions - 1);
    for partition in 0..partitions {
        builder.add(core, first + partition, share * health(0.01));
        for step in 1..=sides / 2 {
            let other = (partition + step) % partitions;
            builder.add(first + partition, first + other, (1.0 - share) / sides as f64 * health(0.01));
        }
    }
    for partition in 0..partitions {
        let at = first + partition;
        builder.add(at, next, health(0.01));
        next += 1;
        let centres = next;
        next += groups;
        let siblings = 6.min(groups - 1);
        for group in 0..groups {
            builder.add(at, centres + group, health(0.01) / groups as f64);
            for step in 1..=siblings / 2 {
                let other = (group + step) % groups;
                let weight = (1.0 - 1.0 / groups as f64) / siblings as f64;
                builder.add(centres + group, centres + other, weight * health(0.01));
            }
        }
        if partition % 4 == 0 {
            for other in [core, slots, at] {
                builder.add(next, other, health(0.05) / 3.0);
            }
            next += 1;
        }
    }
    builder.finish(format!("monitor {next}"), next, &mut random)
}
