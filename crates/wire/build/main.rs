//! Turns `schema/*.api` and `schema/*.record` into Rust: parse, check, print.
//!
//! Invariant: what the schema files say is all that the generated code knows; nothing about a message is
//! written in the generator. It never touches the network and never writes outside `OUT_DIR`.

#![allow(missing_docs, unreachable_pub, dead_code)]

mod generate;
mod schema;

use std::path::Path;
use std::{env, fs};

fn main() {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("schema");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=schema");
    let schemas = schema::read_folder(&folder).unwrap_or_else(|error| panic!("{error}"));
    let out = env::var("OUT_DIR").unwrap();
    fs::write(Path::new(&out).join("messages.rs"), generate::messages(&schemas)).unwrap();
    fs::write(Path::new(&out).join("api.rs"), generate::api_table(&schemas)).unwrap();
}
