//! One target for all parsers: `TFWRAP_HOSTILE` names the one.
#![no_main]

#[path = "../tests/hostile/parsers.rs"]
#[expect(dead_code, reason = "the samples are for the corpus, which `tests/hostile` writes")]
mod parsers;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READ: LazyLock<fn(&[u8]) -> bool> = LazyLock::new(|| {
    let name = std::env::var("TFWRAP_HOSTILE").unwrap_or_default();
    let parser = parsers::PARSERS.iter().find(|parser| parser.name == name);
    parser.unwrap_or_else(|| panic!("TFWRAP_HOSTILE names a parser of tests/hostile")).read
});

fuzz_target!(|bytes: &[u8]| {
    let _is_read = READ(bytes);
});
