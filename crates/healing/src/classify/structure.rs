//! Whether an index itself is at fault, which decides between building it anew and searching more of it.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::graph::{drift_excess, fragmentation_pct};
use crate::health::{Curve, DEAD, DRIFT_EXCESS, FRAGMENTATION};
use crate::snapshot::{Index, Method};

/// What the structure of an index says about a low recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// Every structural metric was read and is above the threshold of its class: rebuilding would not help.
    Good,
    /// A structural metric is at or beyond its threshold.
    Bad,
    /// A structural metric was not read and none is bad.
    Unknown,
}

/// Whether the index itself is at fault, whatever its recall.
pub fn structure(index: &Index, config: &Config) -> Structure {
    if !index.valid {
        return Structure::Bad;
    }
    // Each metric: whether it is good, None where it was not read.
    let metrics: Vec<Option<bool>> = match index.method {
        // Of an ivfflat index only the lists decide how much a search finds.
        Method::Ivfflat => {
            let excess = index.ivf.known().and_then(|ivf| drift_excess(ivf).ok());
            vec![excess.map(|excess| excess <= DRIFT_EXCESS.threshold)]
        }
        Method::Hnsw => {
            let pct = fragmentation_pct(index).ok();
            let dead = index.dead_share.known();
            let good = |curve: &Curve, pct| curve.at_with(&config.health_curves, pct) >= config.stress_lambda;
            let mut metrics = vec![pct.map(|pct| good(&FRAGMENTATION, pct))];
            // Dead entries that were not counted are in the bytes.
            metrics.extend(dead.map(|share| Some(good(&DEAD, 100.0 * share))));
            metrics.extend(index.density.map(|density| Some(!density.is_thin())));
            metrics
        }
    };
    if metrics.contains(&Some(false)) {
        Structure::Bad
    } else if metrics.contains(&None) {
        Structure::Unknown
    } else {
        Structure::Good
    }
}
