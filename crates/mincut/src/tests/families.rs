//! Random graphs of many kinds.

use super::Edges;

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How capacities are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Weights {
    Unit,
    Small,
    Real,
    /// All alike up to one part in 10¹².
    NearTied,
    /// Over twelve orders of magnitude.
    Spread,
    /// Mostly ordinary, some that no cut can pay.
    Huge,
    /// Multiples of one third.
    Thirds,
}

pub(crate) const WEIGHTS: [Weights; 7] = [
    Weights::Unit,
    Weights::Small,
    Weights::Real,
    Weights::NearTied,
    Weights::Spread,
    Weights::Huge,
    Weights::Thirds,
];

impl Weights {
    pub(crate) fn draw(self, random: &mut Random) -> f64 {
        match self {
            Self::Unit => 1.0,
            Self::Small => (1 + random.below(4)) as f64,
            Self::Real => 0.05 + random.unit(),
            Self::NearTied => 1.0 + 1e-12 * random.unit(),
            Self::Spread => 10f64.powi(random.below(13) as i32 - 6) * (1.0 + random.unit()),
            Self::Huge => {
                if random.below(4) == 0 {
                    1e18
                } else {
                    0.5 + random.unit()
                }
            }
            Self::Thirds => (1 + random.below(5)) as f64 / 3.0,
        }
    }
}

/// How the edges lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Uniformly random, connected or not.
    Sparse,
    Dense,
    Complete,
    Cycle,
    /// A cycle with chords.
    Ring,
    Tree,
    /// A tree and few more edges.
    Cactus,
    /// Few hubs that everyone is joined to.
    Hubs,
    /// Dense groups with few edges between them.
    Groups,
    Grid,
    /// Two halves without an edge between.
    Apart,
    Bipartite,
    /// Parallel edges, loops and zeros.
    Messy,
}

pub(crate) const SHAPES: [Shape; 13] = [
    Shape::Sparse,
    Shape::Dense,
    Shape::Complete,
    Shape::Cycle,
    Shape::Ring,
    Shape::Tree,
    Shape::Cactus,
    Shape::Hubs,
    Shape::Groups,
    Shape::Grid,
    Shape::Apart,
    Shape::Bipartite,
    Shape::Messy,
];

/// A graph of `nodes` nodes, at least two.
pub(crate) fn graph(shape: Shape, weights: Weights, nodes: usize, random: &mut Random) -> Edges {
    let mut edges = Vec::new();
    let mut add =
        |u: usize, v: usize, random: &mut Random| edges.push((u as u32, v as u32, weights.draw(random)));
    let pairs = (0..nodes).flat_map(|u| (0..u).map(move |v| (u, v)));
    let scatter = |count: usize, add: &mut dyn FnMut(usize, usize, &mut Random), random: &mut Random| {
        for _ in 0..count {
            let (u, v) = (random.below(nodes), random.below(nodes));
            if u != v {
                add(u, v, random);
            }
        }
    };
    match shape {
        Shape::Sparse => scatter(2 * nodes, &mut add, random),
        Shape::Dense => pairs.for_each(|(u, v)| {
            if random.below(2) == 0 {
                add(u, v, random)
            }
        }),
        Shape::Complete => pairs.for_each(|(u, v)| add(u, v, random)),
        Shape::Cycle => (0..nodes).for_each(|u| add(u, (u + 1) % nodes, random)),
        Shape::Ring => {
            (0..nodes).for_each(|u| add(u, (u + 1) % nodes, random));
            scatter(nodes / 2, &mut add, random);
        }
        Shape::Tree => (1..nodes).for_each(|u| add(u, random.below(u), random)),
        Shape::Cactus => {
            (1..nodes).for_each(|u| add(u, random.below(u), random));
            scatter(nodes / 3, &mut add, random);
        }
        Shape::Hubs => {
            for u in 0..nodes {
                for hub in 0..2.min(u) {
                    add(u, hub, random);
                }
            }
            scatter(nodes / 2, &mut add, random);
        }
        Shape::Groups => {
            let group = |node: usize| node * 3 / nodes;
            pairs.for_each(|(u, v)| {
                if group(u) == group(v) || random.below(12) == 0 {
                    add(u, v, random)
                }
            });
        }
        Shape::Grid => {
            let width = 1 + nodes / 4;
            for u in 0..nodes {
                if (u + 1) % width != 0 && u + 1 < nodes {
                    add(u, u + 1, random);
                }
                if u + width < nodes {
                    add(u, u + width, random);
                }
            }
        }
        Shape::Apart => pairs.for_each(|(u, v)| {
            if u % 2 == v % 2 {
                add(u, v, random)
            }
        }),
        Shape::Bipartite => pairs.for_each(|(u, v)| {
            if u % 2 != v % 2 && random.below(3) > 0 {
                add(u, v, random)
            }
        }),
        Shape::Messy => {
            scatter(3 * nodes, &mut add, random);
            for _ in 0..nodes {
                let u = random.below(nodes);
                add(u, u, random);
            }
            edges.push((0, nodes as u32 - 1, 0.0));
        }
    }
    // The order in which edges are named must not matter for the value.
    for at in (1..edges.len()).rev() {
        edges.swap(at, random.below(at + 1));
    }
    edges
}
