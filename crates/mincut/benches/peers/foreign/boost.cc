// Boost's stoer_wagner_min_cut on a graph file: `boost FILE RUNS SECONDS` prints `value milliseconds`.
#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/one_bit_color_map.hpp>
#include <boost/graph/stoer_wagner_min_cut.hpp>
#include <boost/property_map/property_map.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int, char **arguments) {
    typedef boost::adjacency_list<boost::vecS, boost::vecS, boost::undirectedS, boost::no_property,
                                  boost::property<boost::edge_weight_t, double>>
        Graph;
    FILE *file = std::fopen(arguments[1], "r");
    const int runs = std::atoi(arguments[2]);
    const double seconds = std::atof(arguments[3]);
    size_t nodes, edges;
    if (!file || std::fscanf(file, "%zu %zu", &nodes, &edges) != 2) return 1;
    Graph graph(nodes);
    for (size_t i = 0; i < edges; i++) {
        unsigned u, v;
        double weight;
        if (std::fscanf(file, "%u %u %lf", &u, &v, &weight) != 3) return 1;
        boost::add_edge(u, v, weight, graph);
    }
    std::vector<double> times;
    double value = 0, total = 0;
    for (int run = 0; run < runs && (run == 0 || total < seconds * 1e3); run++) {
        const auto start = std::chrono::steady_clock::now();
        auto side = boost::make_one_bit_color_map(boost::num_vertices(graph), boost::get(boost::vertex_index, graph));
        value = boost::stoer_wagner_min_cut(graph, boost::get(boost::edge_weight, graph), boost::parity_map(side));
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
        total += times.back();
    }
    std::sort(times.begin(), times.end());
    std::printf("%.12g %.6f\n", value, times[times.size() / 2]);
}
