//! The border between the pure core (`healing`) and PostgreSQL.
use pgrx::prelude::*;
pgrx::pg_module_magic!(name, version);
