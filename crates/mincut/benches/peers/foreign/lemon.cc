// LEMON's NagamochiIbaraki on a graph file: `lemon FILE RUNS SECONDS` prints `value milliseconds best`.
// Capacities are given to it as whole multiples of 2^-40: with doubles it does not end on some of the graphs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <lemon/nagamochi_ibaraki.h>
#include <lemon/smart_graph.h>
#include <vector>

int main(int, char **arguments) {
    const double scale = 1099511627776.0;
    FILE *file = std::fopen(arguments[1], "r");
    const int runs = std::atoi(arguments[2]);
    const double seconds = std::atof(arguments[3]);
    size_t nodes, edges;
    if (!file || std::fscanf(file, "%zu %zu", &nodes, &edges) != 2) return 1;
    lemon::SmartGraph graph;
    std::vector<lemon::SmartGraph::Node> node;
    for (size_t i = 0; i < nodes; i++) node.push_back(graph.addNode());
    typedef lemon::SmartGraph::EdgeMap<long long> Capacity;
    Capacity capacity(graph);
    for (size_t i = 0; i < edges; i++) {
        unsigned u, v;
        double weight;
        if (std::fscanf(file, "%u %u %lf", &u, &v, &weight) != 3) return 1;
        capacity[graph.addEdge(node[u], node[v])] = (long long)(weight * scale + 0.5);
    }
    std::vector<double> times;
    double value = 0, total = 0;
    for (int run = 0; run < runs && (run == 0 || total < seconds * 1e3); run++) {
        const auto start = std::chrono::steady_clock::now();
        lemon::NagamochiIbaraki<lemon::SmartGraph, Capacity> solver(graph, capacity);
        solver.run();
        lemon::SmartGraph::NodeMap<bool> side(graph);
        value = solver.minCutMap(side) / scale;
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
        total += times.back();
    }
    std::sort(times.begin(), times.end());
    std::printf("%.12g %.6f %.6f\n", value, times[times.size() / 2], times[0]);
}
