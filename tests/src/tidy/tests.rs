//! Each rule catches the violation it is for.

use super::documents;
use super::imports::{missing, tables, violations};
use super::lexer::lex;
use super::sizes;
use super::sources;
use super::{File, files, root};

const TABLE: &str = "
Crate `box-one`:

| rank | module | owns | may import | must never |
|---|---|---|---|---|
| 0 | `units` | | - | |
| 1 | `buffer` | | - | x |
| 2 | `store` | | rank 1 | x |
| 3 | `tree` | | store | x |
| 3 | `check` | | `tree::walk`, vdi_core::clock | x |
| 4 | `engine` | | all above | x |
";

fn judge(path: &str, text: &str) -> Vec<String> {
    let table = &tables(TABLE)[0];
    let all = ["units", "buffer", "store", "tree", "check", "engine"];
    let stubs = all.iter().map(|m| format!("box-one/src/{m}.rs")).filter(|p| p != path);
    let mut files: Vec<File> = stubs.map(|p| File::new(&p, "")).collect();
    files.push(File::new(path, text));
    violations(table, &files)
}

#[test]
fn an_import_against_the_arrow_is_found() {
    assert_eq!(judge("box-one/src/store.rs", "use crate::buffer::B; use crate::units;"), [""; 0]);
    let found = judge("box-one/src/store.rs", "\nuse crate::tree::Root;");
    assert_eq!(found, ["box-one/src/store.rs:2: store must not import crate::tree::Root"]);
    assert_eq!(judge("box-one/src/tree.rs", "fn f() { crate::engine::go() }").len(), 1, "a path, not a use");
    assert_eq!(judge("box-one/src/tree.rs", "use crate::{units::U, engine::{self, E}, store};").len(), 2);
    assert_eq!(judge("box-one/src/tree.rs", "use super::engine::E;").len(), 1, "through super");
    assert_eq!(judge("box-one/src/tree/leaf.rs", "use super::super::engine::E;").len(), 1);
    assert_eq!(judge("box-one/src/tree/leaf.rs", "mod a { use super::super::super::engine::E; }").len(), 1);
    assert_eq!(judge("box-one/src/engine.rs", "use crate::{check, tree, store};"), [""; 0]);
}

#[test]
fn a_narrow_permission_permits_only_its_part() {
    assert_eq!(judge("box-one/src/check.rs", "use crate::tree::walk::Visitor;"), [""; 0]);
    assert_eq!(judge("box-one/src/check.rs", "use crate::tree::apply;").len(), 1);
    assert_eq!(judge("box-one/src/check.rs", "use vdi_core::clock::X; use vdi_core::Error;"), [""; 0]);
    assert_eq!(judge("box-one/src/check.rs", "use vdi_core::engine::X;").len(), 1);
}

#[test]
fn a_module_without_a_row_and_a_row_without_a_module_are_found() {
    assert_eq!(
        judge("box-one/src/secret.rs", ""),
        ["box-one/src/secret.rs: `secret` has no row in ARCHITECTURE.md"]
    );
    let found = missing(&tables(TABLE)[0], &[File::new("box-one/src/units.rs", "")]);
    assert_eq!(found.len(), 5);
}

#[test]
fn comments_strings_and_tests_import_nothing() {
    let text = r##"
        // use crate::engine::A;
        /* nested /* use crate::engine::B; */ still */
        const S: &str = "crate::engine::C"; const R: &str = r#"" crate::engine::D"#; const Q: char = '"';
        fn f<'a>(x: &'a str) -> char { '\'' }
        #[cfg(test)]
        mod tests { use crate::engine::E; }
    "##;
    assert_eq!(judge("box-one/src/store.rs", text), [""; 0]);
    let table = &tables(TABLE)[0];
    let owner = File::new("box-one/src/store/mod.rs", "#[cfg(test)]\npub(crate) mod stand_in;\nmod real;");
    let hidden = File::new("box-one/src/store/stand_in.rs", "use crate::engine::E;");
    let real = File::new("box-one/src/store/real.rs", "use crate::engine::E;");
    assert_eq!(violations(table, &[owner.clone(), hidden]), [""; 0], "a file that only tests compile");
    assert_eq!(violations(table, &[owner, real]).len(), 1);
    assert_eq!(judge("box-one/src/store.rs", "#[cfg(not(test))] mod a { use crate::engine::E; }").len(), 1);
}

fn judge_source(path: &str, text: &str) -> Vec<String> {
    sources::violations(
        &[File::new("a/src/lib.rs", "mod good; mod util;"), File::new(path, text)],
        &["a/src/buffer.rs"],
    )
}

#[test]
fn unsafe_outside_the_list_is_found() {
    assert_eq!(judge_source("a/src/good.rs", "fn f() {}\nfn g() { unsafe { x() } }").len(), 1);
    assert_eq!(judge_source("a/src/good.rs", "// unsafe\n#![deny(unsafe_code)]"), [""; 0]);
    assert_eq!(judge_source("a/tests/law.rs", "unsafe fn f() {}").len(), 1, "tests too");
}

#[test]
fn names_that_say_nothing_and_switched_off_tests_are_found() {
    assert_eq!(judge_source("a/src/util.rs", "").len(), 1);
    assert_eq!(judge_source("a/tests/common/mod.rs", "").len(), 1);
    assert_eq!(judge_source("a/src/good.rs", "#[ignore = \"slow\"]\nfn t() {}").len(), 1);
    assert_eq!(judge_source("a/src/good.rs", "pub use crate::x::*;").len(), 1);
    assert_eq!(judge_source("a/src/good.rs", "use super::*;").len(), 1);
    assert_eq!(judge_source("a/src/good.rs", "#[cfg(test)]\nmod tests { use super::*; }"), [""; 0]);
}

#[test]
fn a_file_no_module_declares_is_found() {
    assert_eq!(judge_source("a/src/stray.rs", "").len(), 1);
    assert_eq!(judge_source("a/src/good.rs", ""), [""; 0]);
}

#[test]
fn a_document_that_names_a_missing_path_is_found() {
    let judge = |text: &str| {
        let document = File::new("docs/a.md", text);
        documents::violations(&[document], &["vdi-core/src"], |p| {
            ["docs/a.md", "docs/b.md", "Makefile", "vdi-core/src/store", "vdi-core/src/store/mod.rs"]
                .contains(&p)
        })
    };
    assert_eq!(
        judge("see `docs/b.md`, [b](b.md#part), `store/` and `store/mod.rs`, [top](../Makefile)"),
        [""; 0]
    );
    assert_eq!(judge("see `docs/gone.md`"), ["docs/a.md:1: docs/gone.md does not exist"]);
    assert_eq!(judge("\nsee [it](gone.md)"), ["docs/a.md:2: gone.md does not exist"]);
    assert_eq!(
        judge("`/run/parallax`, `vdi/NAME.sock`, `NNN-title.md`, <https://x.y/z>, `target/doc`"),
        [""; 0]
    );
    assert_eq!(judge("```\ncat gone/file.rs\n```"), [""; 0]);
}

#[test]
fn sizes_count_production_lines_only() {
    let file =
        File::new("a/src/b.rs", "fn f() {\n    g();\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n");
    assert_eq!(sizes::files(std::slice::from_ref(&file))[0].lines, 4);
    let functions = sizes::functions(&[file]);
    assert_eq!((functions.len(), functions[0].lines), (1, 3));
}

#[test]
fn the_lexer_reads_every_file_of_the_project_to_its_end() {
    for file in files(&root(), &["rs"]) {
        let tokens = lex(&file.text);
        let last = file.text.trim_end().chars().last();
        if last == Some('}') {
            assert!(
                tokens.last().is_some_and(|t| t.is('}')),
                "{} ends within a literal or comment",
                file.path
            );
        }
        let count = |c: char| tokens.iter().filter(|t| t.is(c)).count();
        assert_eq!(count('{'), count('}'), "braces of {}", file.path);
    }
}
