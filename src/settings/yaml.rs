//! YAML text → a tree that knows its lines. Owns every limit on what a file may make of our memory, and the two refusals
//! that a YAML reader usually leaves out: a key given twice, and more than one document.
//!
//! The parser is asked for one event after the other, so that depth costs no stack.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Bytes of a file.
pub(super) const SIZE_MAX: usize = 1 << 20;
/// Lists and maps inside one another.
const DEPTH_MAX: usize = 16;
/// Values after aliases are replaced, and bytes of text in them.
const NODES_MAX: usize = 200_000;
const TEXT_MAX: usize = 4 << 20;

/// What is wrong, and in which line. The name of the file is known to the caller.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// A value and the line that it begins in, counted from 1.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Clone)]
pub(super) enum Kind {
    /// `key:` with nothing behind it, `~` or `null`.
    Nothing,
    /// Text, number or truth value: the option's own parser tells which it wants.
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map, in its canonical spelling: with hyphens.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Node,
}

/// A list or map that is not complete yet.
struct Open {
    line: usize,
    anchor: usize,
    /// `None` for a list.
    map: Option<Map>,
    items: Vec<Node>,
}

#[derive(Default)]
struct Map {
    entries: Vec<Entry>,
    key: Option<(String, usize)>,
}

/// Reads one document; `None` for one without content.
pub(super) fn parse(text: &str) -> Result<Option<Node>> {
    let mut tree = Tree::default();
    let mut line = 1;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| Fault::new(e.marker().line(), format!("this is no YAML: {}", e.info())))?;
        line = span.start.line();
        tree.take(event, span)?;
    }
    if tree.open.is_empty() { Ok(tree.root) } else { Err(Fault::new(line, "this is no YAML: it ends too early")) }
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    documents: usize,
    nodes: usize,
    text: usize,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let line = span.start.line();
        let is_tagged = match &event {
            Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => tag.is_some(),
            _ => false,
        };
        if is_tagged {
            return Err(Fault::new(line, "tags (!) are not read: write the value without one"));
        }
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                let is_second = self.documents > 1;
                if is_second {
                    Err(Fault::new(line, "a second document begins here (---): one file has one"))
                } else {
                    Ok(())
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let node = self.scalar(line, text, style)?;
                self.complete(anchor, node)
            }
            Event::SequenceStart(anchor, _) => self.begin(line, anchor, None),
            Event::MappingStart(anchor, _) => self.begin(line, anchor, Some(Map::default())),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned();
                let node = node.ok_or_else(|| Fault::new(line, "this alias (*) names what is not complete yet"))?;
                self.charge(&node)?;
                self.complete(0, Node { line, ..node })
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar(&mut self, line: usize, text: Cow<'_, str>, style: ScalarStyle) -> Result<Node> {
        let is_nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
        let kind = if is_nothing { Kind::Nothing } else { Kind::Text(text.into_owned()) };
        let node = Node { line, kind };
        self.charge(&node)?;
        Ok(node)
    }

    /// Counts a value with all in it.
    fn charge(&mut self, node: &Node) -> Result<()> {
        self.nodes += 1;
        match &node.kind {
            Kind::Nothing => {}
            Kind::Text(text) => self.text += text.len(),
            Kind::List(items) => items.iter().try_for_each(|item| self.charge(item))?,
            Kind::Map(entries) => {
                self.text += entries.iter().map(|entry| entry.key.len()).sum::<usize>();
                entries.iter().try_for_each(|entry| self.charge(&entry.value))?;
            }
        }
        if self.nodes > NODES_MAX || self.text > TEXT_MAX {
            return Err(Fault::new(node.line, format!("more than {NODES_MAX} values, or 4 MiB: split the file")));
        }
        Ok(())
    }

    fn begin(&mut self, line: usize, anchor: usize, map: Option<Map>) -> Result<()> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Fault::new(line, format!("more than {DEPTH_MAX} lists or maps inside one another")));
        }
        if let Some(Open { map: Some(Map { key: None, .. }), .. }) = self.open.last() {
            return Err(Fault::new(line, "a key is plain text, such as interval: 30s"));
        }
        self.open.push(Open { line, anchor, map, items: Vec::new() });
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let kind = match open.map {
            None => Kind::List(open.items),
            Some(map) => Kind::Map(merged(map.entries)?),
        };
        let node = Node { line: open.line, kind };
        // What stands in it is counted already.
        self.nodes += 1;
        self.complete(open.anchor, node)
    }

    /// Puts a complete value where it belongs.
    fn complete(&mut self, anchor: usize, node: Node) -> Result<()> {
        if anchor > 0 {
            self.charge(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node).filter(|node| !matches!(node.kind, Kind::Nothing)),
            Some(Open { map: None, items, .. }) => items.push(node),
            Some(Open { map: Some(map), .. }) => match map.key.take() {
                Some((key, line)) => map.entries.push(Entry { key, line, value: node }),
                None => {
                    let Kind::Text(text) = node.kind else {
                        return Err(Fault::new(node.line, "a key is plain text, such as interval: 30s"));
                    };
                    map.key = Some((text.replace('_', "-"), node.line));
                }
            },
        }
        Ok(())
    }
}

/// The entries of a map, each key once; `<<` brings in those of other maps, behind its own.
fn merged(entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let mut lines: HashMap<String, usize> = HashMap::new();
    let mut own = Vec::with_capacity(entries.len());
    let mut brought = Vec::new();
    for entry in entries {
        if entry.key == "<<" {
            brought.push(entry);
            continue;
        }
        match lines.entry(entry.key.clone()) {
            Slot::Vacant(free) => drop(free.insert(entry.line)),
            Slot::Occupied(first) => {
                let what = format!("`{}` is given twice, first in line {}: keep one", entry.key, first.get());
                return Err(Fault::new(entry.line, what));
            }
        }
        own.push(entry);
    }
    for entry in brought {
        let maps = match entry.value.kind {
            Kind::List(items) => items,
            _ => vec![entry.value],
        };
        for map in maps {
            let Kind::Map(more) = map.kind else {
                return Err(Fault::new(entry.line, "`<<` takes an alias of a map, such as <<: *defaults"));
            };
            own.extend(more.into_iter().filter(|e| lines.insert(e.key.clone(), e.line).is_none()));
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(node: &Node) -> String {
        match &node.kind {
            Kind::Nothing => format!("{}~", node.line),
            Kind::Text(text) => format!("{}{text:?}", node.line),
            Kind::List(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(" ")),
            Kind::Map(entries) => {
                let entries = entries.iter().map(|e| format!("{}{}={}", e.line, e.key, shape(&e.value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn every_value_has_its_line() {
        for (text, expected) in [
            ("", None),
            ("# only a comment\n", None),
            ("---\n", None),
            ("a_b: 1\nc:\n", Some("{1a-b=1\"1\" 2c=2~}")),
            ("a:\n  - x\n  - 'y z'\n", Some("{1a=[2\"x\" 3\"y z\"]}")),
            ("a: \"null\"\nb: null\n", Some("{1a=1\"null\" 2b=2~}")),
            ("a: {b: true, c: [1]}\n", Some("{1a={1b=1\"true\" 1c=[1\"1\"]}}")),
            ("\u{feff}a: 1\r\nb: 2\r\n", Some("{1a=1\"1\" 2b=2\"2\"}")),
            ("a: &x 5\nb: *x\n", Some("{1a=1\"5\" 2b=2\"5\"}")),
            ("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n", Some("{1a={1p=1\"1\" 1q=1\"2\"} 2b={4q=4\"3\" 1p=1\"1\"}}")),
        ] {
            let read = parse(text).unwrap_or_else(|f| panic!("{text:?}: {f:?}"));
            assert_eq!(read.as_ref().map(shape).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_refused_names_its_line() {
        let deep = format!("a: {}{}\n", "[".repeat(40), "]".repeat(40));
        for (text, line, part) in [
            ("a: 1\nb: 2\na: 3\n", 3, "`a` is given twice, first in line 1"),
            ("keep-daily: 1\nkeep_daily: 2\n", 2, "`keep-daily` is given twice, first in line 1"),
            ("a: 1\n---\nb: 1\n", 2, "second document"),
            ("a: !secret x\n", 1, "tags"),
            ("a: !!str x\n", 1, "tags"),
            ("? [a]\n: b\n", 1, "a key is plain text"),
            ("a: b: c\n", 1, "no YAML"),
            ("a: 'x\n", 1, "no YAML"),
            ("a:\n\t- x\n", 2, "no YAML"),
            ("a: &x [*x]\n", 1, "not complete yet"),
            ("a: *none\n", 1, "no YAML"),
            ("a: 1\n<<: 5\n", 2, "<<: *defaults"),
            (deep.as_str(), 1, "more than 16"),
        ] {
            let fault = parse(text).map(|_| ()).expect_err(text);
            assert!(fault.what.contains(part), "{text:?}: {fault:?}");
            assert_eq!(fault.line, line, "{text:?}: {fault:?}");
        }
    }

    /// Each line multiplies the one before it by ten.
    #[test]
    fn aliases_cannot_multiply() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            text += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        let fault = parse(&text).map(|_| ()).expect_err("a bomb");
        assert!(fault.what.contains("more than 200000 values"), "{fault:?}");
        assert!(fault.line < 8, "{fault:?}");
    }
}
