//! Exact global minimum cut of a weighted undirected graph.
