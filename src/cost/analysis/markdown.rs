//! Markdown as it lies in the repository: tables, and prose in lines of a bounded width.

/// Of a line of text.
const WIDTH: usize = 120;

/// Prose and list items broken into lines of at most [`WIDTH`] characters; headings, tables and code as they are.
pub(super) fn wrapped(section: &str) -> String {
    let blocks = section.trim_end().split("\n\n").map(|block| {
        if block.starts_with(['#', '|', ' ']) {
            return block.to_owned();
        }
        let items = block.replace("\n- ", "\n\u{0}- ");
        items.split('\u{0}').map(|item| filled(item.trim_end())).collect::<Vec<_>>().join("\n")
    });
    blocks.collect::<Vec<_>>().join("\n\n") + "\n"
}

fn filled(item: &str) -> String {
    let indent = if item.starts_with("- ") { "  " } else { "" };
    let (mut text, mut width) = (String::new(), 0);
    for word in item.split_whitespace() {
        let len = word.chars().count();
        // At the beginning of a line these would make a list.
        let may_break = !matches!(word, "+" | "-" | "*");
        if width > 0 && width + 1 + len > WIDTH && may_break {
            text.push('\n');
            text.push_str(indent);
            width = indent.len();
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += len;
    }
    text
}

/// A table as Markdown has it, the first column to the left.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|---|{}\n", "---:|".repeat(head.len() - 1));
    line(&head) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}
