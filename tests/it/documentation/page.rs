//! The pages of the documentation, their code blocks and the commands in them.

use std::path::Path;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// A code block of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The word after the fence. Empty for an indented block, and for a fence without a word.
    pub language: String,
    pub text: String,
    /// The line of the page on which the block begins.
    pub line: usize,
}

/// Returns the code blocks of a page. A block is either fenced, or indented by four spaces more
/// than the text around it.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence: Option<usize> = None;
    let mut indented = false;
    let mut item = 0;
    for (at, line) in page.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(language) = trimmed.strip_prefix("```") {
            fence = match fence {
                Some(_) => None,
                None => {
                    blocks.push(Block { language: language.to_owned(), text: String::new(), line: at + 1 });
                    Some(indent)
                }
            };
            indented = false;
            continue;
        }
        if let Some(indent) = fence {
            let block = blocks.last_mut().expect("a fence began a block");
            block.text.push_str(line.get(indent..).unwrap_or(trimmed));
            block.text.push('\n');
            continue;
        }
        if trimmed.is_empty() {
            if indented {
                blocks.last_mut().expect("a block").text.push('\n');
            }
            continue;
        }
        if indent < item + 4 {
            indented = false;
            // Text in a list item is indented by the width of its bullet or number.
            let bullet = trimmed.split(' ').next().unwrap_or_default();
            let is_item = bullet == "-" || bullet.strip_suffix('.').is_some_and(|n| n.parse::<u8>().is_ok());
            item = if is_item { indent + bullet.len() + 1 } else { indent.min(item) };
            continue;
        }
        if !indented {
            blocks.push(Block { language: String::new(), text: String::new(), line: at + 1 });
            indented = true;
        }
        let block = blocks.last_mut().expect("a block");
        block.text.push_str(&line[item + 4..]);
        block.text.push('\n');
    }
    blocks
}

/// Returns the pages of the documentation, except those of `docs/adr`.
pub fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benches/README.md"]
            .map(str::to_owned)
            .to_vec();
    for folder in ["docs", "docs/recipes", "deploy/runbooks"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<String> = entries
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
            .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
            .collect();
        found.sort();
        pages.append(&mut found);
    }
    pages
}

/// Returns the shell commands of a block, without comments. A line that ends with a backslash is
/// joined with the next line.
pub fn commands(block: &Block) -> Vec<String> {
    let joined = block.text.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Returns the commands of a line, each as a list of words. The line is split into commands at
/// `&&`, `||`, `;`, `|` and `&`. Quotes are removed, and a redirection ends a command.
pub fn parts(line: &str) -> Vec<Vec<String>> {
    let mut parts = vec![vec![String::new()]];
    let mut quote = None;
    let mut is_redirected = false;
    for letter in line.chars() {
        let words = parts.last_mut().expect("a command");
        let last = words.last_mut().expect("a word");
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, '&' | '|' | ';') => {
                parts.push(vec![String::new()]);
                is_redirected = false;
            }
            (None, '>' | '<') => is_redirected = true,
            _ if is_redirected => {}
            (None, ' ') => words.push(String::new()),
            _ => last.push(letter),
        }
    }
    for words in &mut parts {
        words.retain(|word| !word.is_empty());
    }
    parts.retain(|words| !words.is_empty());
    parts
}

/// Returns the words of the first command of a line.
pub fn words(line: &str) -> Vec<String> {
    parts(line).into_iter().next().unwrap_or_default()
}

/// Returns each piece of text in backquotes outside fenced blocks.
pub fn inline_code(page: &str) -> Vec<String> {
    let outside: String = page.split("```").step_by(2).collect();
    outside.split('`').skip(1).step_by(2).map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
