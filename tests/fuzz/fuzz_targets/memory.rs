#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| macfence_fuzz::memory(text));
