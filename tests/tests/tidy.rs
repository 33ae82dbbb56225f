//! The tree is tidy: see `parallax_tests::tidy` for the rules. `make tidy` prints the sizes.

use std::fs;

use parallax_tests::tidy::{documents, files, imports, root, sizes, sources};

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn every_import_follows_the_tables_of_the_architecture() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let tables = imports::tables(&text);
    let names: Vec<&str> = tables.iter().map(|t| t.krate.as_str()).collect();
    assert_eq!(names, ["vdi-core", "vhost-parallax"]);
    let sources = files(&root(), &["rs"]);
    let findings: Vec<String> = tables.iter().flat_map(|t| imports::violations(t, &sources)).collect();
    assert_none(&findings);
    let promised: Vec<String> = tables.iter().flat_map(|t| imports::missing(t, &sources)).collect();
    assert_none(&promised);
}

#[test]
fn the_architecture_fits_in_200_lines() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    assert!(text.lines().count() <= 200);
}

#[test]
fn every_path_in_a_document_exists() {
    let bases = ["vdi-core/src", "vhost-parallax/src"];
    let documents = files(&root(), &["md"]);
    assert_none(&documents::violations(&documents, &bases, |path| root().join(path).exists()));
}

#[test]
fn sources_keep_the_rules_of_names_unsafe_and_tests() {
    assert_none(&sources::violations(&files(&root(), &["rs"]), &sources::UNSAFE));
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    for member in ["vdi-core", "vhost-parallax", "qemu-harness", "tests", "benches", "fuzz-targets"] {
        let manifest =
            fs::read_to_string(root().join(member).join("Cargo.toml")).expect("each member has one");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member} opts out of the workspace's lints");
    }
}

#[test]
fn the_largest_are_printed() {
    let sources = files(&root(), &["rs"]);
    println!("\nLargest files (lines outside tests):");
    sizes::files(&sources).iter().take(10).for_each(|s| println!("  {:5} {}", s.lines, s.name));
    println!("Largest functions:");
    sizes::functions(&sources).iter().take(10).for_each(|s| println!("  {:5} {}", s.lines, s.name));
}
