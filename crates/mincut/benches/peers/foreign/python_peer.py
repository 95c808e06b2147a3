"""python-igraph or networkx on a graph file: `python_peer.py NAME FILE RUNS SECONDS` prints `value milliseconds`."""

import statistics
import sys
import time

name, path, runs, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with open(path) as file:
    nodes, _ = map(int, file.readline().split())
    edges = [(int(u), int(v), float(w)) for u, v, w in map(str.split, file)]
weights = [w for _, _, w in edges]

if name == "igraph":
    import igraph

    graph = igraph.Graph(n=nodes, edges=[(u, v) for u, v, _ in edges])

    def solve():
        return graph.mincut(capacity=weights).value
else:
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_weighted_edges_from(edges)

    def solve():
        return networkx.stoer_wagner(graph)[0]


times = []
while len(times) < runs and (not times or sum(times) < seconds * 1e3):
    start = time.perf_counter()
    value = solve()
    times.append((time.perf_counter() - start) * 1e3)
print(f"{value:.12g} {statistics.median(times):.6f}")
