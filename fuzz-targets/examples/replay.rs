//! `make fuzz FUZZ=name INPUT=file`: run one input of a target once, without libFuzzer.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, file] = arguments.as_slice() else {
        eprintln!("usage: replay TARGET FILE");
        return ExitCode::from(2);
    };
    let Some(body) = fuzz_targets::target(name) else {
        let names: Vec<&str> = fuzz_targets::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("replay: no target '{name}'; there are {}", names.join(", "));
        return ExitCode::from(2);
    };
    match std::fs::read(file) {
        Ok(bytes) => body(&bytes),
        Err(e) => {
            eprintln!("replay: {file}: {e}");
            return ExitCode::from(2);
        }
    }
    println!("{name}: {file} keeps every promise");
    ExitCode::SUCCESS
}
