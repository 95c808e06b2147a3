//! What a solve returns.

/// A minimum cut: its value and one of its sides.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Cut {
    /// Sum of the capacities that cross the cut, in the caller's measure.
    pub value: f64,
    /// The same in whole units of [`crate::Graph::resolution`]; exact.
    pub units: u64,
    /// One entry a node: `true` on the side with fewer nodes; of two equal sides, the one without node 0.
    pub side: Vec<bool>,
}

impl Cut {
    /// Orients the side and puts the cut together.
    pub(crate) fn new(value: f64, units: u64, mut side: Vec<bool>) -> Self {
        let inside = side.iter().filter(|&&on| on).count();
        let outside = side.len() - inside;
        if inside > outside || (inside == outside && side.first() == Some(&true)) {
            for on in &mut side {
                *on = !*on;
            }
        }
        Self { value, units, side }
    }

    /// Indices of the edges of `edges` that cross the cut, ascending: removing them separates the side from the rest.
    ///
    /// Edges of capacity zero that cross are named as well; edges naming nodes that the graph does not have are not.
    pub fn witness(&self, edges: &[(u32, u32, f64)]) -> Vec<usize> {
        let on = |node: u32| self.side.get(node as usize).copied();
        edges
            .iter()
            .enumerate()
            .filter(|(_, (u, v, _))| matches!((on(*u), on(*v)), (Some(a), Some(b)) if a != b))
            .map(|(index, _)| index)
            .collect()
    }

    /// Number of nodes on the side.
    pub fn side_len(&self) -> usize {
        self.side.iter().filter(|&&on| on).count()
    }
}
