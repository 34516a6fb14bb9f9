//! Which file imports which, through re-exports, and where imports run in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::scan::{paths, tokens, without_tests};

type Module = Vec<String>;

/// A name that leads back to itself: files or folders, in order.
pub(crate) type Circle = Vec<String>;

/// The crate's modules and what they import. Unit tests are left out.
pub(crate) struct Graph {
    /// Module → file.
    files: BTreeMap<Module, String>,
    /// What a name in a module leads to, where the module imports it.
    names: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Graph {
    pub(crate) fn new(sources: &[(String, String)]) -> Self {
        let of_crate = |path: &str| path.starts_with("src/") && !is_test(path);
        let mut graph = Self { files: BTreeMap::new(), names: BTreeMap::new() };
        for (path, _) in sources.iter().filter(|(path, _)| of_crate(path)) {
            graph.files.entry(module(path)).or_insert_with(|| path.clone());
        }
        for (path, source) in sources.iter().filter(|(path, _)| of_crate(path)) {
            let module = module(path);
            let mut names = BTreeMap::new();
            for named in paths(&tokens(&without_tests(source))) {
                if let Some(absolute) = graph.absolute(&module, &named) {
                    names.entry(absolute.last().cloned().unwrap_or_default()).or_insert(absolute);
                }
            }
            graph.names.entry(module).or_default().extend(names);
        }
        graph
    }

    /// Every import of a file by another file: `(from, to)`. Doors re-export, and import nothing.
    pub(crate) fn imports(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for (module, names) in &self.names {
            let from = &self.files[module];
            if is_door(from) {
                continue;
            }
            for named in names.values() {
                let to = self.file_of(named, 0);
                found.extend(to.filter(|to| *to != from).map(|to| (from.clone(), to.clone())));
            }
        }
        found
    }

    fn absolute(&self, module: &[String], named: &[String]) -> Option<Module> {
        let ups = named.iter().take_while(|part| *part == "super").count();
        let mut absolute = match &*named[0] {
            "crate" => named[1..].to_vec(),
            "self" => [module, &named[1..]].concat(),
            "super" => [&module[..module.len().checked_sub(ups)?], &named[ups..]].concat(),
            first if self.files.contains_key(&[module, &[first.to_owned()]].concat()) => [module, named].concat(),
            _ => return None,
        };
        absolute.retain(|part| part != "self");
        Some(absolute)
    }

    /// The file that defines what a path leads to.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&String> {
        for length in (0..=path.len()).rev() {
            let Some(file) = self.files.get(&path[..length]) else { continue };
            let next = path.get(length).and_then(|name| self.names.get(&path[..length])?.get(name));
            return match next {
                Some(to) if to != path && depth < 8 => self.file_of(to, depth + 1),
                _ => Some(file),
            };
        }
        None
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn is_door(path: &str) -> bool {
    path.ends_with("/mod.rs") || path == "src/lib.rs"
}

fn module(path: &str) -> Module {
    let mut module: Module =
        path.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// A file's folder below `src/`. The modules of `a/b.rs`, in `a/b/`, belong to `a`.
pub(crate) fn folder(path: &str, files: &BTreeSet<String>) -> String {
    let mut folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    while files.contains(&format!("{folder}.rs")) {
        folder = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    folder.trim_start_matches("src/").to_owned()
}

/// All circles: each a largest set of nodes that reach one another.
pub(crate) fn circles(edges: &BTreeSet<(String, String)>) -> Vec<Circle> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges {
        next.entry(from).or_default().insert(to);
    }
    let reach = |from: &str| {
        let (mut seen, mut queue) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(node) = queue.pop() {
            for to in next.get(&*node).into_iter().flatten() {
                if seen.insert((*to).to_owned()) {
                    queue.push((*to).to_owned());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> = next.keys().map(|from| (*from, reach(from))).collect();
    let both = |a: &str, b: &str| reached[a].contains(b) && reached.get(b).is_some_and(|back| back.contains(a));
    let circle = |from: &str| reached[from].iter().filter(|to| both(from, to)).cloned().collect::<Circle>();
    let found: BTreeSet<Circle> = reached.keys().map(|from| circle(from)).filter(|circle| circle.len() > 1).collect();
    found.into_iter().collect()
}
