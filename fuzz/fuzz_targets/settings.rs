#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| litesnap_fuzz::laws::settings::check(data));
