//! What the fields of a [`DynamicCut`] promise, against the capacities as they are.

use super::DynamicCut;
use crate::csr::Csr;
use std::collections::BTreeMap;

/// Nodes of a graph small enough to look at all cuts.
const NODES_FOR_ALL_CUTS: usize = 9;

impl DynamicCut {
    /// Checks all of it; what is said of cuts, against all of them where those are few.
    pub fn check(&self, context: &dyn Fn() -> String) {
        let units = |capacity: f64| self.scale.units(capacity);
        let mut fresh = Csr::from_edges(self.nodes, &self.edges, |capacity| Some(units(capacity)));
        fresh.sort_rows();
        assert_eq!(self.graph.offsets, fresh.offsets);
        assert_eq!(self.graph.targets, fresh.targets);
        assert_eq!(self.graph.weights, fresh.weights, "{}", context());
        assert_eq!(self.graph.degrees, fresh.degrees, "{}", context());
        assert_eq!(self.total, fresh.degrees.iter().sum::<u64>() / 2, "{}", context());
        if let Some(cut) = &self.cut {
            let crossing =
                self.edges.iter().filter(|(u, v, _)| cut.side[*u as usize] != cut.side[*v as usize]);
            assert_eq!(cut.units, crossing.map(|edge| units(edge.2)).sum::<u64>(), "{}", context());
            assert_eq!(cut.value, self.scale.capacity(cut.units));
        }
        assert!(self.sure <= self.coarse.floor, "{}", context());
        if self.coarse.floor > 0 {
            self.check_partition(context);
        } else {
            assert!(!self.certificate.is_valid(), "{}", context());
        }
        if self.nodes <= NODES_FOR_ALL_CUTS {
            self.check_cuts(context);
        }
    }

    /// The quotient is that of the graph as it is.
    fn check_partition(&self, context: &dyn Fn() -> String) {
        let class = |node: u32| self.coarse.class[node as usize];
        let mut expected = BTreeMap::new();
        for node in 0..self.nodes as u32 {
            for (target, weight) in self.graph.row(node as usize) {
                if class(node) != class(target) {
                    *expected.entry((class(node), class(target))).or_insert(0) += weight;
                }
            }
        }
        let mut found = BTreeMap::new();
        for node in 0..self.quotient.nodes() {
            let row: Vec<_> = self.quotient.row(node).collect();
            assert!(row.is_sorted());
            assert_eq!(self.quotient.degrees[node], row.iter().map(|arc| arc.1).sum(), "{}", context());
            found.extend(row.into_iter().map(|(target, weight)| ((node as u32, target), weight)));
        }
        assert_eq!(found, expected, "{}", context());
        let mut sizes = vec![0; self.quotient.nodes()];
        for &class in &self.coarse.class {
            sizes[class as usize] += 1;
        }
        assert_eq!(sizes.iter().max(), Some(&sizes[self.coarse.largest as usize]));
        for node in 0..self.nodes {
            assert_eq!(self.coarse.single[node], sizes[class(node as u32) as usize] == 1);
        }
    }

    fn check_cuts(&self, context: &dyn Fn() -> String) {
        let nodes = self.nodes as u32;
        let mut least = u64::MAX;
        for side in 1..1u32 << (nodes - 1) {
            let on = |node: u32| side >> node & 1 == 1;
            let arcs = || {
                (0..nodes)
                    .filter(|&node| on(node))
                    .flat_map(|node| self.graph.range(node as usize))
                    .filter(|&arc| !on(self.graph.targets[arc]))
            };
            let value: u64 = arcs().map(|arc| self.graph.weights[arc]).sum();
            least = least.min(value);
            let floor = self.coarse.floor;
            if floor == 0 {
                continue;
            }
            let class = |node: u32| self.coarse.class[node as usize];
            let splits = (0..nodes).any(|a| (0..a).any(|b| class(a) == class(b) && on(a) != on(b)));
            if !splits {
                continue;
            }
            assert!(value >= self.sure, "{value} below {}: {}", self.sure, context());
            let pending = self.pending.iter().any(|&(u, v, _)| on(u) != on(v));
            assert!(value >= floor || pending, "{value} below {floor}: {}", context());
            if self.certificate.is_valid() {
                let kept: u64 = arcs().map(|arc| self.certificate.kept(&self.graph, arc)).sum();
                assert!(kept >= floor, "{kept} kept, below {floor}: {}", context());
            }
        }
        if self.exact {
            assert_eq!(self.worth(), least, "{}", context());
        }
    }

    /// After a question, that there is a certificate where a floor is worth one, but for the losses that may do without.
    #[cfg(test)]
    pub(crate) fn check_maintained(&self, context: &dyn Fn() -> String) {
        if self.worth() > 0 && self.coarse.floor >= self.worth() {
            let (valid, without) = (self.certificate.is_valid(), self.losses_without);
            assert!(without < super::LOSSES_WITHOUT_MAX, "{without} losses: {}", context());
            assert!(!(valid && self.certificate.is_worn()), "worn: {}", context());
            assert!(valid || without > 0, "none: {}", context());
        }
    }

    /// Partitions made since the beginning.
    #[cfg(test)]
    pub(crate) fn rebuilds(&self) -> usize {
        self.rebuilds
    }

    /// Whether the certificate has withstood all losses since it was made.
    #[cfg(test)]
    pub(crate) fn is_certified(&self) -> bool {
        self.certificate.is_valid()
    }

    /// Whether the next question has to look for the minimum.
    #[cfg(test)]
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.exact
    }

    /// Arcs that flows have looked at since the last question.
    #[cfg(test)]
    pub(crate) fn arcs_looked_at(&self) -> usize {
        super::FLOW_PASSES_MAX * self.graph.arcs() - self.flow_arcs
    }
}

#[test]
fn a_floor_sinks_to_what_holds_and_by_no_more_than_was_lost() {
    for (floor, loss, held, left) in
        [(10, 3, 5, 7), (10, 3, 8, 8), (10, 3, 20, 10), (10, 20, 2, 2), (0, 1, 9, 0)]
    {
        assert_eq!(super::sunk(floor, loss, held), left);
    }
}
