//! What the tests, the example and the benchmark share: random bytes of any message, made from the schema files
//! alone and without the codec under test; and an allocator that counts.

#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../../build/schema.rs"]
pub mod schema;

pub mod counting;
pub mod mutation;
pub mod random;
pub mod sample;

use std::path::Path;

/// Every schema there is.
pub fn schemas() -> Vec<schema::Schema> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    schema::read_folder(&folder).unwrap_or_else(|error| panic!("{error}"))
}

/// `text` with blanks and line breaks removed, from hexadecimal digits to bytes.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a digit") as u8).collect();
    assert_eq!(digits.len() % 2, 0);
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
