//! Prints text and tables to a terminal or a pipe.

use std::io::{self, Write};

use crate::error::{Error, Kind, Result};
use crate::text;

/// Prints a text to standard output. If standard output is a closed pipe, returns an error, whereas
/// `print!` would panic.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text::printable_lines(text).as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::new(Kind::Internal, format!("could not write to standard output: {error}")))
}

/// Prints one line in the same way as [`print`].
pub(super) fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Quotes a name so that a shell reads it as one word.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:/-@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Formats a table. Each column is as wide as its widest cell, and two spaces separate the columns.
/// A column that is empty in every row is left out.
pub(super) fn table(head: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let printable = |row: &Vec<String>| row.iter().map(|cell| text::printable(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(printable).collect();
    let used: Vec<usize> = (0..head.len()).filter(|at| rows.iter().any(|row| !row[*at].is_empty())).collect();
    let width = |at: usize| {
        rows.iter().map(|row| row[at].chars().count()).chain([head[at].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = used.iter().map(|at| width(*at)).collect();
    let render = |cells: Vec<&str>| {
        let mut text = String::new();
        for ((cell, at), width) in cells.into_iter().zip(&used).zip(&widths) {
            let gap = " ".repeat(width - cell.chars().count());
            match head[*at].1 {
                Align::Left => text.push_str(&format!("{cell}{gap}  ")),
                Align::Right => text.push_str(&format!("{gap}{cell}  ")),
            }
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![render(used.iter().map(|at| head[*at].0).collect())];
    lines.extend(rows.iter().map(|row| render(used.iter().map(|at| row[*at].as_str()).collect())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let head = [("NAME", Align::Left), ("WAITING", Align::Left), ("ROWS", Align::Right)];
        let rows = [vec!["a".into(), String::new(), "1,000".into()], vec!["longer".into(), String::new(), "1".into()]];
        assert_eq!(table(&head, &rows), ["NAME     ROWS", "a       1,000", "longer      1"]);
        assert_eq!(table(&head[..1], &[vec!["a\nb".into()]]), ["NAME", r"a\nb"]);
    }

    #[test]
    fn a_name_can_be_pasted_into_a_shell() {
        assert_eq!(word("orders/total_cents:v1"), "orders/total_cents:v1");
        assert_eq!(word("it's"), "'it'\\''s'");
    }
}
