//! scratch
use simulator::scenario::Scenario;
use simulator::simulation::run_with;
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (first, n, days, trace) = (a[0], a[1], a[2], a.get(3).is_some());
    let mut cov = simulator::coverage::Coverage::default();
    let mut bad = std::collections::BTreeMap::new();
    let t = std::time::Instant::now();
    for seed in first..first + n {
        let s = Scenario::generate(seed, days * 86400);
        let r = run_with(&s, trace);
        cov.add(&r.coverage);
        if trace {
            for l in &r.trace {
                println!("{l}");
            }
        }
        if let Some((c, d)) = r.violations.first() {
            let e = bad.entry(*c).or_insert((0, seed, d.clone()));
            e.0 += 1;
        }
    }
    println!("{:?}", t.elapsed());
    for (c, (k, seed, d)) in bad {
        println!("{c}: {k} x, seed {seed}: {d}");
    }
    if n > 1 {
        println!("missing: {:?}\n{:?}\n{:?}", cov.missing(), cov.begun, cov.ends);
    }
}
