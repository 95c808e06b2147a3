//! What the server sets for the safety of all, an owner cannot loosen for a collection: only be stricter.

use super::Config;

/// A key that binds where it is set for the server.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Its name.
    pub name: &'static str,
    /// Brings a collection's value to the stricter of its own and the server's.
    pub(super) tighten: fn(&mut Config, &Config),
}

macro_rules! bound {
    ($($name:ident: $stricter:expr;)+) => {
        /// Every key that binds.
        pub const BOUND: &[Bound] = &[$(Bound {
            name: stringify!($name),
            tighten: |own, server| own.$name = $stricter(&own.$name, &server.$name),
        },)+
        // The windows of both must be open.
        Bound {
            name: "maintenance_windows",
            tighten: |own, server| own.server_windows.clone_from(&server.maintenance_windows),
        }];
    };
}

/// The lesser of two limits.
fn least<T: Copy + PartialOrd>(own: &T, server: &T) -> T {
    if own <= server { *own } else { *server }
}

/// The lesser of two limits of which None is no limit.
fn least_known(own: &Option<f64>, server: &Option<f64>) -> Option<f64> {
    match (own, server) {
        (Some(own), Some(server)) => Some(own.min(*server)),
        (own, server) => own.or(*server),
    }
}

/// What both name.
fn both(own: &[String], server: &[String]) -> Vec<String> {
    let others = server.iter().filter(|name| !own.contains(name));
    own.iter().chain(others).cloned().collect()
}

fn and(own: &bool, server: &bool) -> bool {
    *own && *server
}

fn or(own: &bool, server: &bool) -> bool {
    *own || *server
}

bound! {
    enabled: and;
    approver_differs: or;
    require_approval: both;
    require_approval_strategies: both;
    require_approval_irreversible: or;
    max_auto_heal_impact: least;
    max_stress_impact: least;
    window_impact: least;
    quiet_replica_lag_seconds: least_known;
    quiet_oldest_snapshot_seconds: least_known;
    quiet_active_sessions_per_core: least_known;
    quiet_wal_mib_per_second: least_known;
    max_moves: least;
    max_move_share: least;
    move_lock_ms: least;
    move_wal_mib: least;
    move_despite_triggers: and;
    max_disk_share: least;
    lock_timeout_ms: least;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{KEYS, Scope};
    use super::*;

    fn layered(server: Value, own: Value) -> Config {
        Config::layered(&server, &own).unwrap()
    }

    #[test]
    fn an_owner_is_stricter_than_the_server_or_as_strict() {
        let server = json!({
            "require_approval": ["MemoryPressure"], "require_approval_strategies": ["compact_indexes"],
            "require_approval_irreversible": true, "max_auto_heal_impact": 0.3, "quiet_wal_mib_per_second": 10.0,
            "max_moves": 500, "move_despite_triggers": false,
        });
        let loose = json!({
            "require_approval": ["CentroidSkew"], "require_approval_strategies": [], "require_approval_irreversible": false,
            "max_auto_heal_impact": 1.0, "quiet_wal_mib_per_second": null, "max_moves": 100_000, "move_despite_triggers": true,
        });
        let config = layered(server.clone(), loose);
        assert_eq!(config.require_approval, ["CentroidSkew", "MemoryPressure"]);
        assert_eq!(config.require_approval_strategies, ["compact_indexes"]);
        assert!(config.require_approval_irreversible && !config.move_despite_triggers);
        assert_eq!(
            (config.max_auto_heal_impact, config.quiet_wal_mib_per_second, config.max_moves),
            (0.3, Some(10.0), 500)
        );
        let strict = layered(server, json!({ "max_auto_heal_impact": 0.1, "quiet_wal_mib_per_second": 5.0 }));
        assert_eq!((strict.max_auto_heal_impact, strict.quiet_wal_mib_per_second), (0.1, Some(5.0)));
    }

    #[test]
    fn a_default_binds_nobody() {
        let config =
            layered(json!({}), json!({ "max_auto_heal_impact": 1.0, "require_approval_strategies": [] }));
        assert_eq!(config.max_auto_heal_impact, 1.0);
        assert!(config.require_approval_strategies.is_empty());
    }

    #[test]
    fn the_windows_of_the_server_are_kept_beside_those_of_the_collection() {
        let night = json!([{ "from": "22:00", "to": "05:00" }]);
        let config = layered(json!({ "maintenance_windows": night }), json!({ "maintenance_windows": [] }));
        assert_eq!((config.server_windows.len(), config.maintenance_windows.len()), (1, 0));
        assert!(layered(json!({}), json!({ "maintenance_windows": night })).server_windows.is_empty());
    }

    #[test]
    fn what_binds_is_a_key_of_collections() {
        for bound in BOUND {
            let key = KEYS.iter().find(|key| key.name == bound.name).unwrap();
            assert_eq!(key.scope, Scope::Collection, "{}", key.name);
        }
    }

    proptest! {
        #[test]
        fn the_stricter_of_two_is_as_strict_as_each(own in proptest::option::of(0.0..9.0f64), server in proptest::option::of(0.0..9.0f64)) {
            let lets = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit);
            let of_both = least_known(&own, &server);
            for value in [0.0, 1.0, 4.5, 8.0, 10.0] {
                prop_assert_eq!(lets(of_both, value), lets(own, value) && lets(server, value));
            }
        }
    }
}
