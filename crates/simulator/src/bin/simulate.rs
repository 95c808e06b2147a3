//! Runs many seeds of the virtual world.

fn main() {
    println!("{}", simulator::random::Random::new(0, "world").unit());
}
