//! The house rules a compiler does not check, on every Rust file that is committed: length of files and functions, the
//! module doc, names, reasons for silenced lints, and the fence around `unsafe`. Reads syntax, not text, wherever it can.

use crate::command;
use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Longest file, in lines, its test module left out.
const FILE_LINES: usize = 500;
/// Longest function, in lines of code between its braces.
const FUNCTION_LINES: usize = 60;
/// Longest module doc, in lines.
const MODULE_DOC_LINES: usize = 8;
/// Longest module doc of a crate's root, which may explain the crate's words.
const CRATE_DOC_LINES: usize = 24;
/// Names that say nothing, for files, folders and modules.
const FORBIDDEN_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "types", "misc", "manager"];
/// Macros that mean unfinished work or left-over debugging.
const FORBIDDEN_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];
/// The only places for `unsafe`: files, or folders ending with a slash.
const UNSAFE_ROOMS: [&str; 3] = ["daemon/host/src/sys.rs", "daemon/launcher/src/sys.rs", "ebpf/"];

/// Findings in all committed Rust files, and how many files there were.
///
/// # Errors
/// When git cannot list the files or one cannot be read.
pub fn findings(root: &Path) -> Result<(usize, Vec<String>)> {
    let mut git = command::program(root, "git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.rs"]);
    let listed = command::capture(&mut git)?;
    if !listed.success {
        bail!("`git ls-files` failed: {}; remedy: run this in a git checkout", listed.stderr.trim());
    }
    let files: Vec<_> = listed.stdout.lines().filter(|path| root.join(path).is_file()).collect();
    let mut findings = Vec::new();
    for path in &files {
        let text =
            std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read `{path}`"))?;
        findings.extend(judge(path, &text));
    }
    Ok((files.len(), findings))
}

/// The findings in one file.
fn judge(path: &str, text: &str) -> Vec<String> {
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => {
            return vec![format!("{path}:{}: not readable as Rust: {error}", error.span().start().line)];
        }
    };
    let mut rules = Rules { path, lines: text.lines().collect(), findings: Vec::new() };
    rules.names();
    rules.module_doc();
    rules.file_length(&file);
    rules.visit_file(&file);
    if let Ok(tokens) = text.parse() {
        rules.tokens(tokens);
    }
    rules.findings
}

struct Rules<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    findings: Vec<String>,
}

impl Rules<'_> {
    fn found(&mut self, line: usize, what: impl std::fmt::Display) {
        self.findings.push(format!("{}:{line}: {what}", self.path));
    }

    fn names(&mut self) {
        for part in self.path.trim_end_matches(".rs").split('/').filter(|part| FORBIDDEN_NAMES.contains(part))
        {
            self.found(1, format_args!("`{part}` names nothing: name the responsibility"));
        }
    }

    fn module_doc(&mut self) {
        let first = self.lines.iter().position(|line| !line.is_empty() && !line.starts_with("#!["));
        let body = &self.lines[first.unwrap_or(0)..];
        let count = body.iter().take_while(|line| line.starts_with("//!")).count();
        let root = ["main.rs", "lib.rs"].contains(&self.path.rsplit('/').next().unwrap_or_default());
        let limit = if root { CRATE_DOC_LINES } else { MODULE_DOC_LINES };
        match count {
            0 => self.found(1, "begins without a `//!` line on what the file is for"),
            _ if count > limit => {
                self.found(1, format_args!("module doc of {count} lines, at most {limit} are allowed"))
            }
            _ => {}
        }
    }

    fn file_length(&mut self, file: &syn::File) {
        let tests =
            file.items.iter().filter(|item| matches!(item, syn::Item::Mod(m) if is_test_only(&m.attrs)));
        let tested: usize = tests.map(|item| item.span().end().line + 1 - item.span().start().line).sum();
        let count = self.lines.len() - tested;
        if count > FILE_LINES {
            self.found(1, format_args!("{count} lines without tests, at most {FILE_LINES} are allowed"));
        }
    }

    fn function_length(&mut self, name: &syn::Ident, block: &syn::Block) {
        let (open, close) =
            (block.brace_token.span.open().start().line, block.brace_token.span.close().start().line);
        let inside = self.lines.get(open..close.saturating_sub(1)).unwrap_or_default();
        let code = |line: &&&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let count = inside.iter().filter(code).count();
        if count > FUNCTION_LINES {
            self.found(
                open,
                format_args!("`{name}` has {count} lines of code, at most {FUNCTION_LINES} are allowed"),
            );
        }
    }

    fn tokens(&mut self, stream: TokenStream) {
        let trees: Vec<_> = stream.into_iter().collect();
        for (index, tree) in trees.iter().enumerate() {
            let line = tree.span().start().line;
            match tree {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(name) if name == "unsafe" && !self.may_be_unsafe() => {
                    self.found(line, format_args!("`unsafe` outside {}", UNSAFE_ROOMS.join(", ")));
                }
                TokenTree::Ident(name) if FORBIDDEN_MACROS.iter().any(|word| name == word) => {
                    let called =
                        matches!(trees.get(index + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                    if called {
                        self.found(line, format_args!("`{name}!` is left in"));
                    }
                }
                _ => {}
            }
        }
    }

    fn may_be_unsafe(&self) -> bool {
        UNSAFE_ROOMS
            .iter()
            .any(|room| self.path == *room || room.ends_with('/') && self.path.starts_with(room))
    }
}

impl<'ast> Visit<'ast> for Rules<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function_length(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function_length(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function_length(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if FORBIDDEN_NAMES.iter().any(|name| item.ident == name) {
            let line = item.ident.span().start().line;
            self.found(line, format_args!("module `{}` names nothing: name the responsibility", item.ident));
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let silences = attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
        if silences && !has_reason(attribute) {
            self.found(attribute.span().start().line, "a silenced lint without `reason = \"...\"`");
        }
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .any(|a| a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|i| i == "test"))
}

fn has_reason(attribute: &syn::Attribute) -> bool {
    let mut found = false;
    let parsed = attribute.parse_nested_meta(|meta| {
        if meta.path.is_ident("reason") {
            meta.value()?.parse::<syn::LitStr>()?;
            found = true;
        }
        Ok(())
    });
    parsed.is_ok() && found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &[&str]) {
        let found = judge(path, text);
        assert_eq!(found.len(), expected.len(), "{path}: {found:?}");
        for (finding, part) in found.iter().zip(expected) {
            assert!(finding.contains(part), "{finding} does not say {part}");
        }
    }

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        let long = format!("//! Doc.\nfn f() {{\n{}}}\n", "    call();\n".repeat(61));
        let edge = format!("//! Doc.\nfn f() {{\n    // why\n\n{}}}\n", "    call();\n".repeat(60));
        let cases: &[(&str, &str, &[&str])] = &[
            ("daemon/a/src/lib.rs", "//! Doc.\nfn f() {}\n", &[]),
            ("ebpf/src/main.rs", "#![no_std]\n//! Doc.\nfn f() {}\n", &[]),
            ("daemon/a/src/b.rs", "fn f() {}\n", &["src/b.rs:1: begins without"]),
            ("daemon/a/src/b.rs", &"//! Doc.\n".repeat(9), &["module doc of 9 lines, at most 8"]),
            ("daemon/a/src/lib.rs", &"//! Doc.\n".repeat(24), &[]),
            ("daemon/a/src/b.rs", &long, &["b.rs:2: `f` has 61 lines"]),
            ("daemon/a/src/b.rs", &edge, &[]),
            ("daemon/a/src/utils.rs", "//! Doc.\n", &["`utils` names nothing"]),
            (
                "daemon/common/src/b.rs",
                "//! Doc.\nmod misc {}\n",
                &["`common` names nothing", "module `misc`"],
            ),
            ("daemon/a/src/b.rs", "//! Doc.\n#[allow(dead_code)]\nfn f() {}\n", &["b.rs:2: a silenced lint"]),
            ("daemon/a/src/b.rs", "//! Doc.\n#[expect(dead_code, reason = \"why\")]\nfn f() {}\n", &[]),
            ("daemon/a/src/b.rs", "//! Doc.\nfn f() { g(|| todo!()) }\n", &["b.rs:2: `todo!` is left in"]),
            ("daemon/a/src/b.rs", "//! Doc.\nfn f() { assert!(dbg!(true)) }\n", &["`dbg!` is left in"]),
            ("daemon/a/src/b.rs", "//! Doc: todo!\nfn todo() { let _ = \"dbg!\"; }\n", &[]),
            ("daemon/a/src/b.rs", "//! Doc.\nfn f() { unsafe { g() } }\n", &["b.rs:2: `unsafe` outside"]),
            ("daemon/host/src/sys.rs", "//! Doc.\nfn f() { unsafe { g() } }\n", &[]),
            ("ebpf/src/main.rs", "//! Doc.\nfn f() { unsafe { g() } }\n", &[]),
            (
                "daemon/host/src/sys.rs/../x.rs",
                "//! Doc.\nfn f() { unsafe { g() } }\n",
                &["`unsafe` outside"],
            ),
            ("daemon/a/src/b.rs", "//! Doc.\nfn f( {}\n", &["not readable as Rust"]),
        ];
        for (path, text, expected) in cases {
            check(path, text, expected);
        }
    }

    #[test]
    fn a_test_module_does_not_count_towards_the_length_of_a_file() {
        let code = format!("//! Doc.\n{}", "const A: u8 = 0;\n".repeat(499));
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const B: u8 = 0;\n".repeat(400));
        check("daemon/a/src/b.rs", &format!("{code}{tests}"), &[]);
        check("daemon/a/src/b.rs", &format!("{code}const C: u8 = 0;\n{tests}"), &["501 lines without tests"]);
    }
}
