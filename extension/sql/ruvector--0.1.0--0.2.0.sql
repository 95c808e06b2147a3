-- ruvector 0.1.0 to 0.2.0: what changed in tables that 0.1.0 had, and functions whose shape changed. All functions, and the
-- tables that are new, follow from the parts of the install script (toolchain/extension adds them below).

\echo Use "ALTER EXTENSION ruvector UPDATE" to load this file. \quit
