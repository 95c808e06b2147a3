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

/// The sum of what crosses a side.
pub(crate) fn worth(edges: &Edges, side: &[bool]) -> f64 {
    edges.iter().filter(|(u, v, _)| side[*u as usize] != side[*v as usize]).map(|edge| edge.2).sum()
}

/// Two sums that differ by no more than floating-point summation and a resolution of 2⁻⁵⁶ of all capacities (the
/// clamped: at most eight times the cut each) explain.
pub(crate) fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.max(b)
}
