//! Graphs from bytes: any bytes are a graph.

pub(crate) type Edges = Vec<(u32, u32, f64)>;

pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Bytes<'_> {
    /// The next byte, and 0 after the last.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub(crate) fn node(&mut self, nodes: usize) -> u32 {
        u32::from(self.byte()) % nodes as u32
    }

    /// Mostly small whole numbers, which tie; sometimes fractions, zeros and very large or small ones.
    pub(crate) fn capacity(&mut self) -> f64 {
        let low = f64::from(self.byte());
        match low as u8 % 8 {
            0..4 => 1.0 + f64::from(low as u8 / 8 % 4),
            4 => low / 3.0,
            5 => low * 256.0 + f64::from(self.byte()) + f64::from(self.byte()) / 256.0,
            6 => 0.0,
            _ => 2f64.powi(i32::from(self.byte()) - 128) * (1.0 + low / 256.0),
        }
    }

    pub(crate) fn edge(&mut self, nodes: usize) -> (u32, u32, f64) {
        (self.node(nodes), self.node(nodes), self.capacity())
    }
}

impl Bytes<'_> {
    /// Edges, and with few bytes groups, stars and paths of them, on at least two nodes.
    pub(crate) fn graph(&mut self, nodes: usize) -> Edges {
        let mut edges = Edges::new();
        for _ in 0..self.byte() {
            if self.0.is_empty() {
                break;
            }
            let kind = self.byte() % 8;
            if kind > 2 {
                edges.push(self.edge(nodes));
                continue;
            }
            let (first, len) = (self.node(nodes), 2 + u32::from(self.byte()) % (nodes as u32 - 1));
            let capacity = self.capacity();
            let node = |nth: u32| (first + nth) % nodes as u32;
            match kind {
                0 => edges.extend(
                    (0..len.min(24))
                        .flat_map(|u| (0..u).map(move |v| (u, v)))
                        .map(|(u, v)| (node(u), node(v), capacity)),
                ),
                1 => edges.extend((1..len).map(|u| (node(0), node(u), capacity))),
                _ => edges.extend((1..len).map(|u| (node(u - 1), node(u), capacity))),
            }
        }
        edges
    }
}

/// The sum of what crosses a side.
pub(crate) fn worth(edges: &Edges, side: &[bool]) -> f64 {
    edges.iter().filter(|(u, v, _)| side[*u as usize] != side[*v as usize]).map(|edge| edge.2).sum()
}

/// Two sums that differ by no more than floating-point summation and a resolution of 2⁻⁵⁶ of all capacities (the
/// clamped: at most eight times the cut each) explain.
pub(crate) fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.max(b)
}
