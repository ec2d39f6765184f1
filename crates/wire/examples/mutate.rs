//! Decodes damaged frames in bulk: `cargo run -p ottla-wire --release --example mutate -- 10000000 [SEED]`.

#[path = "../tests/support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: support::counting::Counting = support::counting::Counting;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let count = arguments.next().unwrap_or(1_000_000);
    let seed = arguments.next().unwrap_or(1);
    let outcome = support::mutation::run(count, seed);
    println!(
        "{count} damaged frames: {} decoded, {} refused, at most {:.0} % of the memory bound taken",
        outcome.decoded,
        outcome.refused,
        outcome.worst * 100.0
    );
}
