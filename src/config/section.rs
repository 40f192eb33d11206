//! Reads a table of the configuration file key by key, so that an error can name the line, the section,
//! the key, and the values that are allowed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use anyhow::{Error, Result, anyhow};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::syntax;

/// The longest value that an error repeats, in characters.
const SHOWN: usize = 40;

/// A table of the file: the file itself, or a section of it.
pub struct Section<'a> {
    /// Its name in errors; empty for the file itself.
    pub name: String,
    /// The line of each key that was read.
    pub lines: BTreeMap<&'static str, usize>,
    text: &'a str,
    table: Spanned<DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Reads the file itself.
    pub fn file(text: &'a str) -> Result<Self> {
        let table = DeTable::parse(text).map_err(|e| {
            let span = e.span().unwrap_or_default();
            let why = syntax::plain(text, &span, e.message());
            anyhow!("line {}: {why}", line(text, span.start))
        })?;
        Ok(Self {
            name: String::new(),
            lines: BTreeMap::new(),
            text,
            table,
            known: Vec::new(),
        })
    }

    /// The line in which it begins.
    pub fn line(&self) -> usize {
        line(self.text, self.table.span().start)
    }

    /// An error about the section as a whole.
    pub fn error(&self, why: impl Display) -> Error {
        self.error_at(self.table.span().start, why)
    }

    fn error_at(&self, start: usize, why: impl Display) -> Error {
        let line = line(self.text, start);
        if self.name.is_empty() {
            anyhow!("line {line}: {why}")
        } else {
            anyhow!("line {line}: {}: {why}", self.name)
        }
    }

    /// Removes the value of a key and reads it. `what` says in words what the value must be. `read`
    /// returns an error that says what is wrong, or `None`.
    fn read<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl Fn(&DeValue) -> Result<T, Option<Error>>,
    ) -> Result<Option<T>> {
        self.known.push(key);
        let Some(value) = self.table.get_mut().remove(key) else {
            return Ok(None);
        };
        self.lines.insert(key, line(self.text, value.span().start));
        let wrong = |why: Option<Error>| {
            let why = match why {
                Some(why) => format!(": {why:#}"),
                None => format!(", not {}", shown(self.text, value.span())),
            };
            self.error_at(value.span().start, format!("{key} must be {what}{why}"))
        };
        read(value.get_ref()).map(Some).map_err(wrong)
    }

    /// Reads a text.
    pub fn text<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl Fn(&str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.read(key, what, |value| match value {
            DeValue::String(text) => read(text).map_err(Some),
            _ => Err(None),
        })
    }

    /// Reads a list of texts.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl Fn(&str) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        let element = |value: &Spanned<DeValue>| match value.get_ref() {
            DeValue::String(text) => read(text).map_err(Some),
            _ => Err(None),
        };
        self.read(key, what, |value| match value {
            DeValue::Array(values) => values.iter().map(element).collect(),
            _ => Err(None),
        })
    }

    /// Reads a list of texts, or a single text.
    pub fn text_or_list(&mut self, key: &'static str, what: &str) -> Result<Option<Vec<String>>> {
        let text = |value: &DeValue| match value {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            _ => Err(None),
        };
        self.read(key, what, |value| match value {
            DeValue::Array(values) => values.iter().map(|value| text(value.get_ref())).collect(),
            value => text(value).map(|text| vec![text]),
        })
    }

    /// Reads a list of values that can be parsed from texts.
    pub fn list_of<T: FromStr<Err = Error>>(
        &mut self,
        key: &'static str,
        what: &str,
    ) -> Result<Option<Vec<T>>> {
        self.list(key, what, str::parse)
    }

    /// Reads a number that can be converted to `T`.
    pub fn number<T: TryFrom<i64>>(&mut self, key: &'static str, what: &str) -> Result<Option<T>> {
        self.read(key, what, |value| match value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|number| number.try_into().ok())
                .ok_or(None),
            _ => Err(None),
        })
    }

    /// Reads true or false.
    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.read(key, "true or false", |value| match value {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(None),
        })
    }

    /// Reads one of these words.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let quoted: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.read(key, &quoted.join(" or "), |value| match value {
            DeValue::String(text) => {
                let word = words.iter().find(|(word, _)| word == text);
                word.map(|(_, meaning)| *meaning).ok_or(None)
            }
            _ => Err(None),
        })
    }

    /// Reads the sections with this name, which are written as `[[name]]`.
    pub fn sections(&mut self, name: &'static str) -> Result<Vec<Self>> {
        let Some(value) = self.table.get_mut().remove(name) else {
            return Ok(Vec::new());
        };
        let start = value.span().start;
        let wrong = || self.error_at(start, format!("write each such section as [[{name}]]"));
        let DeValue::Array(values) = value.into_inner() else {
            return Err(wrong());
        };
        let section = |value: Spanned<DeValue<'a>>| {
            let span = value.span();
            match value.into_inner() {
                DeValue::Table(table) => Ok(Self {
                    name: format!("[[{name}]]"),
                    lines: BTreeMap::new(),
                    text: self.text,
                    table: Spanned::new(span, table),
                    known: Vec::new(),
                }),
                _ => Err(wrong()),
            }
        };
        values.into_iter().map(section).collect()
    }

    /// Fails if a key was not read, because then it is unknown.
    pub fn end(self) -> Result<()> {
        let Some((key, _)) = self.table.get_ref().iter().next() else {
            return Ok(());
        };
        let known: Vec<_> = self.known.iter().map(|key| format!("`{key}`")).collect();
        let known = known.join(", ");
        // A key may contain control characters.
        let name = key.get_ref().escape_debug();
        let why = format!("unknown key `{name}`; the keys are {known}");
        Err(self.error_at(key.span().start, why))
    }
}

/// The line of the text in which this byte is.
pub(super) fn line(text: &str, start: usize) -> usize {
    text.get(..start).unwrap_or_default().matches('\n').count() + 1
}

/// A value as the file has it, or its beginning.
fn shown(text: &str, span: Range<usize>) -> String {
    let value = text.get(span).unwrap_or_default();
    let first = value.lines().next().unwrap_or_default();
    let shown: String = first.chars().take(SHOWN).collect();
    if shown.len() == value.len() {
        shown
    } else {
        shown + "..."
    }
}
