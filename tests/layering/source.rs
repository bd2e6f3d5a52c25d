//! Parses the source tree. For each file, returns its structs, its string literals, the files that
//! it uses and the crates that it names. Test code (`#[cfg(test)]`, `tests.rs`) is ignored, because
//! a test may use any module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A file below `src`. Its key in the tree is its module, for example `throttle::admit::gate`.
/// `main` and `lib` are the crates' roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// The paths that the file names in `use` trees, expressions, types and macros. The paths are
    /// absolute, without `crate`. A path of another crate begins with `::`, or with `::::` if the
    /// file writes it with a leading `::`.
    pub paths: BTreeSet<String>,
    pub strings: Vec<String>,
    /// The structs with named fields, each with its number of fields.
    pub structs: BTreeMap<String, usize>,
    /// The child modules that the file declares with `mod child;`.
    children: BTreeSet<String>,
    /// The names that `use` gives to modules of this crate, with their paths. A name is the last
    /// segment of the path, or the name after `as`.
    names: BTreeMap<String, String>,
}

pub type Tree = BTreeMap<String, File>;

/// Returns the source tree of this crate.
pub fn tree() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    parse(sources.iter().map(|(path, text)| (path.as_str(), text.as_str())))
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((relative, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Parses sources given as (path below `src`, text).
pub fn parse<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Tree {
    let mut tree = Tree::new();
    for (path, text) in sources {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        if module.ends_with("::tests") || module == "tests" {
            continue;
        }
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let own: Vec<String> = match module.as_str() {
            "lib" | "main" => Vec::new(),
            other => other.split("::").map(str::to_owned).collect(),
        };
        let mut reader = Reader { file: File::default(), is_main: module == "main" };
        reader.read(&tokens.into_iter().collect::<Vec<_>>(), &own);
        tree.insert(module, reader.file.with_children_resolved(&own));
    }
    tree
}

/// Returns the files that each file uses. A path belongs to its longest prefix that has a file:
/// `crate::a::b::c` belongs to `a/b.rs` if `a/b/c.rs` does not exist.
pub fn uses(tree: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all = BTreeMap::new();
    for (module, file) in tree {
        let mut used = BTreeSet::new();
        for path in file.paths.iter().filter(|path| !path.starts_with("::")) {
            let mut prefix = path.as_str();
            loop {
                if let Some((found, _)) = tree.get_key_value(prefix) {
                    if found != module {
                        used.insert(found.as_str());
                    }
                    break;
                }
                match prefix.rsplit_once("::") {
                    Some((shorter, _)) => prefix = shorter,
                    None => break,
                }
            }
        }
        all.insert(module.as_str(), used);
    }
    all
}

impl File {
    /// Resolves each path that begins with a name from `names`, or with the name of a child module:
    /// `child::Item` means `self::child::Item`.
    fn with_children_resolved(mut self, own: &[String]) -> Self {
        self.paths = std::mem::take(&mut self.paths)
            .into_iter()
            .map(|path| match path.strip_prefix("::") {
                // `use crate::throttle; throttle::admit::gate::f()`
                Some(rest) if self.names.contains_key(rest.split("::").next().unwrap()) => {
                    let (name, item) = rest.split_once("::").unwrap_or((rest, ""));
                    format!("{}::{item}", self.names[name]).trim_end_matches("::").to_owned()
                }
                Some(rest) if self.children.contains(rest.split("::").next().unwrap()) => {
                    own.iter().map(String::as_str).chain([rest]).collect::<Vec<_>>().join("::")
                }
                _ => path,
            })
            .collect();
        self
    }
}

struct Reader {
    file: File,
    is_main: bool,
}

impl Reader {
    fn read(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(hash) if hash.as_char() == '#' => {
                    let skip = usize::from(
                        matches!(tokens.get(at + 1), Some(TokenTree::Punct(bang)) if bang.as_char() == '!'),
                    );
                    let attribute = tokens.get(at + 1 + skip).map(ToString::to_string).unwrap_or_default();
                    at += 2 + skip;
                    if attribute.replace(' ', "") == "[cfg(test)]" {
                        at = after_item(tokens, at);
                    }
                }
                TokenTree::Ident(word) if word == "use" => {
                    let end = (at..tokens.len()).find(|at| is_punct(tokens.get(*at), ';')).unwrap_or(tokens.len());
                    self.use_tree(&tokens[at + 1..end], &[], module);
                    at = end;
                }
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        let mut inner = module.to_vec();
                        inner.push(name.to_string());
                        self.read(&body.stream().into_iter().collect::<Vec<_>>(), &inner);
                        at += 3;
                    } else {
                        self.file.children.extend(tokens.get(at + 1).map(ToString::to_string));
                        at += 2;
                    }
                }
                TokenTree::Ident(word) if word == "struct" => {
                    self.structure(&tokens[at + 1..]);
                    at += 2;
                }
                TokenTree::Ident(_) if is_path(tokens, at) && !is_path_before(tokens, at) => {
                    // `::name::...` belongs to another crate, even if this file uses `name` for a
                    // module of this crate.
                    let absolute = is_separator_before(tokens, at);
                    let mut segments = Vec::new();
                    while let Some(TokenTree::Ident(segment)) = tokens.get(at) {
                        segments.push(segment.to_string());
                        at += 1;
                        if !is_separator(tokens, at) {
                            break;
                        }
                        at += 2;
                    }
                    if absolute {
                        self.file.paths.insert(format!("::::{}", segments.join("::")));
                    } else {
                        self.path(&segments, module);
                    }
                }
                TokenTree::Group(group) => {
                    self.read(&group.stream().into_iter().collect::<Vec<_>>(), module);
                    at += 1;
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    if text.contains('"') {
                        self.file.strings.push(text);
                    }
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    /// Reads a `use` tree such as `a::{b, c::{self, d as e}, f::*}`.
    fn use_tree(&mut self, tokens: &[TokenTree], before: &[String], module: &[String]) {
        for branch in tokens.split(|token| is_punct(Some(token), ',')) {
            let mut path = before.to_vec();
            let alias = branch.iter().position(|token| matches!(token, TokenTree::Ident(word) if word == "as"));
            let alias = alias.and_then(|at| branch.get(at + 1)).map(ToString::to_string);
            for token in branch {
                match token {
                    TokenTree::Ident(word) if word == "as" => break,
                    TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                    TokenTree::Ident(word) => path.push(word.to_string()),
                    TokenTree::Group(group) => {
                        self.use_tree(&group.stream().into_iter().collect::<Vec<_>>(), &path, module);
                        path.clear();
                        break;
                    }
                    _ => {}
                }
            }
            if !path.is_empty() {
                if let Some(own) = self.own_path(&path, module) {
                    let name = alias.unwrap_or_else(|| path[path.len() - 1].clone());
                    self.file.names.insert(name, own);
                }
                self.path(&path, module);
            }
        }
    }

    /// Returns the absolute path of a module of this crate; none for other crates.
    fn own_path(&self, segments: &[String], module: &[String]) -> Option<String> {
        let (mut base, mut rest): (Vec<String>, &[String]) = match segments[0].as_str() {
            "crate" => (Vec::new(), &segments[1..]),
            "backfilld" if self.is_main => (Vec::new(), &segments[1..]),
            "self" => (module.to_vec(), &segments[1..]),
            "super" => (module[..module.len().saturating_sub(1)].to_vec(), &segments[1..]),
            _ => return None,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base.join("::"))
    }

    fn path(&mut self, segments: &[String], module: &[String]) {
        if segments[0] == "Self" {
            return;
        }
        // If `own_path` cannot resolve a path, the path belongs to another crate, or begins with a
        // child module or with a name from a `use`. `with_children_resolved` resolves the last two
        // kinds.
        let path = self.own_path(segments, module).unwrap_or_else(|| format!("::{}", segments.join("::")));
        self.file.paths.insert(path);
    }

    fn structure(&mut self, tokens: &[TokenTree]) {
        let Some(TokenTree::Ident(name)) = tokens.first() else { return };
        for token in &tokens[1..] {
            match token {
                TokenTree::Punct(end) if end.as_char() == ';' => return,
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    self.file.structs.insert(name.to_string(), fields(group.stream()));
                    return;
                }
                _ => {}
            }
        }
    }
}

/// Counts the fields of a struct. A field is a name before a single colon outside `<...>`.
fn fields(body: TokenStream) -> usize {
    let tokens: Vec<TokenTree> = body.into_iter().collect();
    let (mut count, mut depth) = (0, 0_i32);
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Punct(punct) = token {
            match punct.as_char() {
                '<' => depth += 1,
                '>' if !is_punct(at.checked_sub(1).and_then(|before| tokens.get(before)), '-') => depth -= 1,
                ':' if depth == 0 && !is_separator(&tokens, at) && !(at > 0 && is_separator(&tokens, at - 1)) => {
                    count += 1;
                }
                _ => {}
            }
        }
    }
    count
}

/// Returns the position after the item that begins here. An item ends with a `;`, or with its body
/// in braces.
fn after_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while at < tokens.len() {
        let token = &tokens[at];
        at += 1;
        match token {
            TokenTree::Punct(end) if end.as_char() == ';' => break,
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => break,
            _ => {}
        }
    }
    at
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    is_separator(tokens, at + 1)
}

fn is_separator_before(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_separator(tokens, at - 2)
}

/// Returns whether the token is the second or a later segment of a path, as `b` is in `a::b` and in
/// `<T>::b`.
fn is_path_before(tokens: &[TokenTree], at: usize) -> bool {
    is_separator_before(tokens, at)
        && at >= 3
        && (matches!(&tokens[at - 3], TokenTree::Ident(_)) || is_punct(tokens.get(at - 3), '>'))
}
