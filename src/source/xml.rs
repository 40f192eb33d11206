//! Parses foreign XML, but only if it is small enough for the parser.
//!
//! roxmltree's time grows with the square of some counts, and each node takes memory. A tokenizer,
//! which has neither problem, counts first. Text that the tokenizer cannot read is refused: nothing
//! uncounted may reach the parser.

use std::iter;

use anyhow::{Error, Result, anyhow};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use roxmltree::Document;

use super::limits;
use crate::quote::beginning;

/// A kind of document, in the words of error messages.
#[derive(Debug)]
pub struct Format {
    /// The name of a document of this kind.
    pub name: &'static str,
    /// The message that a text is not of this kind.
    pub not_it: &'static str,
}

impl Format {
    /// Parses one document.
    ///
    /// # Errors
    /// If it is beyond a limit, or no XML.
    pub fn parse<'a>(&self, xml: &'a str) -> Result<Document<'a>> {
        let mut reader = Reader::from_str(xml);
        let mut size = Size::default();
        loop {
            match reader.read_event().map_err(|e| self.refuse(&e))? {
                Event::Eof => return self.tree(xml),
                event => size.add(self, &event)?,
            }
        }
    }

    /// Splits a text of documents, one after the other. Also returns the text after the last whole
    /// one. No part of the text is read twice to find where a document ends.
    pub fn split<'a>(&'static self, text: &'a str) -> (Vec<Part<'a>>, &'a str) {
        let mut reader = Reader::from_str(text);
        let mut rest = text;
        let parts = iter::from_fn(|| {
            let (part, after) = self.next(&mut reader, rest)?;
            rest = after;
            Some(part)
        });
        (parts.collect(), rest)
    }

    /// Returns the document that `text` begins with. `text` is the part that the reader has not read yet.
    fn next<'a>(
        &'static self,
        reader: &mut Reader<&'a [u8]>,
        text: &'a str,
    ) -> Option<(Part<'a>, &'a str)> {
        let mut size = Size::default();
        let mut level = 0;
        let mut fits = Ok(());
        loop {
            // Stop at a document that cannot be read: nobody knows where it ends, and its text may
            // look like another document.
            let event = reader.read_event().ok()?;
            match &event {
                Event::Eof => return None,
                Event::Text(outside) if level == 0 && !outside.trim_ascii().is_empty() => {
                    return None;
                }
                Event::Start(_) => level += 1,
                Event::End(_) => level -= 1,
                _ => {}
            }
            // A document beyond a limit is read to its end, but not counted any more.
            if fits.is_ok() {
                fits = size.add(self, &event);
            }
            if level == 0 && matches!(event, Event::End(_) | Event::Empty(_)) {
                let (xml, after) = text.split_at_checked(text.len() - reader.get_ref().len())?;
                let xml = xml.trim_start();
                return Some((
                    Part {
                        format: self,
                        xml,
                        fits,
                    },
                    after,
                ));
            }
        }
    }

    fn tree<'a>(&self, xml: &'a str) -> Result<Document<'a>> {
        let marks = xml.bytes().filter(|byte| matches!(byte, b'<' | b'='));
        limits::MARKS.check(self.name, marks.count())?;
        Document::parse(xml).map_err(|e| self.refuse(&e))
    }

    /// Shortens the error: the parsers' messages may quote text of any length.
    fn refuse(&self, why: &dyn std::error::Error) -> Error {
        anyhow!("{}: {}", self.not_it, beginning(&why.to_string()))
    }
}

/// One of several documents of a text.
pub struct Part<'a> {
    format: &'static Format,
    /// The document.
    pub xml: &'a str,
    fits: Result<()>,
}

impl<'a> Part<'a> {
    /// Parses the document.
    ///
    /// # Errors
    /// If it is beyond a limit, or no XML.
    pub fn parse(self) -> Result<Document<'a>> {
        self.fits?;
        self.format.tree(self.xml)
    }
}

/// The counts of a document, as far as it has been read.
#[derive(Debug, Default)]
struct Size {
    levels: usize,
    elements: usize,
    attributes: usize,
    namespaces: usize,
    texts: usize,
    /// Whether the last event was text, which goes on after a reference.
    in_text: bool,
}

impl Size {
    /// Counts one more event of a document.
    fn add(&mut self, format: &Format, event: &Event<'_>) -> Result<()> {
        let is_text = matches!(event, Event::Text(_) | Event::GeneralRef(_));
        match event {
            Event::Start(tag) => {
                self.levels += 1;
                limits::LEVELS.check(format.name, self.levels)?;
                self.add_element(format, tag)?;
            }
            Event::Empty(tag) => self.add_element(format, tag)?,
            Event::End(_) => self.levels = self.levels.saturating_sub(1),
            _ if is_text && self.in_text => {}
            _ => {
                self.texts += 1;
                limits::TEXTS.check(format.name, self.texts)?;
            }
        }
        self.in_text = is_text;
        Ok(())
    }

    fn add_element(&mut self, format: &Format, tag: &BytesStart<'_>) -> Result<()> {
        self.elements += 1;
        limits::ELEMENTS.check(format.name, self.elements)?;
        let mut attributes = tag.attributes();
        // The parser itself refuses two attributes with the same name.
        for (count, attribute) in (1..).zip(attributes.with_checks(false)) {
            let attribute = attribute.map_err(|e| format.refuse(&e))?;
            self.attributes += 1;
            self.namespaces += usize::from(attribute.key.as_ref().starts_with("xmlns"));
            limits::ATTRIBUTES_OF_ONE.check(format.name, count)?;
            limits::ATTRIBUTES.check(format.name, self.attributes)?;
            limits::NAMESPACES.check(format.name, self.namespaces)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
