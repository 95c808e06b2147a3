mod families;
use std::io::Write;
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let all = vec![
        families::communities(1000, 1), families::communities(10_000, 2), families::communities(100_000, 3), families::communities(1_000_000, 4),
        families::gnm(10_000, 80_000, 5), families::gnm(100_000, 800_000, 6), families::power_law(100_000, 7), families::clique(1000, 8),
        families::gnm(3000, 1_000_000, 9), families::monitor(100, 10), families::monitor(300, 11), families::monitor(1000, 12), families::monitor(3000, 13), families::monitor(5000, 14),
    ];
    for i in all {
        let mut f = std::io::BufWriter::new(std::fs::File::create(format!("{dir}/{}.txt", i.name.replace(' ', "_"))).unwrap());
        writeln!(f, "{} {}", i.nodes, i.edges.len()).unwrap();
        for (u, v, w) in i.edges { writeln!(f, "{u} {v} {w}").unwrap(); }
    }
}
