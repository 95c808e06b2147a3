//! Ranked weak components: the weakest part, then the weakest once that one is taken for healthy, and so on.

use crate::{Cut, DynamicCut, GraphError};

impl DynamicCut {
    /// Finds the minimum cut, lets the caller heal what it points at, and finds the next, until a cut is worth at
    /// least `boundary` or `limit` cuts are found. Returns the cuts, weakest first as they were found; a component's
    /// rank value is the value of its cut.
    ///
    /// `heal` is given the cut and the edges with their present capacities, and answers with changes `(edge, capacity)`:
    /// usually the edges of the weak side's own nodes, at their healthy capacity. (To remove the side instead would
    /// weaken its neighbours, which lean on it.) An answer that changes nothing ends the search, for the same cut would
    /// be found again. All capacities are as before when this returns.
    ///
    /// Solving again is cheap: only the quotient that holds all cuts of about this size is solved anew, and only
    /// where a change concerns it.
    ///
    /// # Errors
    /// [`GraphError`] when an answer names an edge that there is not, or a capacity that is none.
    pub fn weak_components(
        &mut self,
        boundary: f64,
        limit: usize,
        mut heal: impl FnMut(&Cut, &[(u32, u32, f64)]) -> Vec<(usize, f64)>,
    ) -> Result<Vec<Cut>, GraphError> {
        let mut found = Vec::new();
        // Newest last: an edge changed twice must get its first capacity back at the end.
        let mut before: Vec<(usize, f64)> = Vec::new();
        let mut outcome = Ok(());
        'search: while found.len() < limit {
            let Some(cut) = self.minimum_cut().filter(|cut| cut.value < boundary) else {
                break;
            };
            found.push(cut.clone());
            let mut changed = false;
            for (edge, capacity) in heal(&found[found.len() - 1], self.edges()) {
                let old = self.edges().get(edge).map(|edge| edge.2);
                if let Err(error) = self.set_capacity(edge, capacity) {
                    outcome = Err(error);
                    break 'search;
                }
                if let Some(old) = old
                    && old != capacity
                {
                    before.push((edge, old));
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        while let Some((edge, capacity)) = before.pop() {
            self.set_capacity(edge, capacity)?;
        }
        outcome.map(|()| found)
    }
}
