//! Quotes of a table: where one is not closed, the rows after it would be read as part of its field.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// Bytes of a quoted field.
const LONGEST: usize = 1 << 26;

/// Lines in which a closing quote is followed by more of its field, and the line of a quote that is not closed.
#[derive(Default)]
pub(super) struct Faults {
    stray: VecDeque<u64>,
    unclosed: Option<u64>,
}

impl Faults {
    /// Whether a row that ends before line `next` has a stray quote. Rows are asked for in order.
    pub fn take_before(&mut self, next: u64) -> bool {
        let mut found = false;
        while self.stray.front().is_some_and(|line| *line < next) {
            found = true;
            self.stray.pop_front();
        }
        found
    }

    /// The line in which a quote opens that is not closed.
    pub fn unclosed(&self) -> Option<u64> {
        self.unclosed
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two.
    Quote,
}

/// Passes the bytes of a table on and follows its quotes. Reading fails at a quote that is not closed.
pub(super) struct Quotes<R> {
    inner: R,
    delimiter: u8,
    state: State,
    line: u64,
    /// Where the last quoted field begins, and its bytes so far.
    opened: u64,
    bytes: usize,
    faults: Rc<RefCell<Faults>>,
}

impl<R: BufRead> Quotes<R> {
    pub fn new(inner: R, delimiter: u8) -> (Self, Rc<RefCell<Faults>>) {
        let faults = Rc::new(RefCell::default());
        let kept = Rc::clone(&faults);
        let state = State::FieldStart;
        (Self { inner, delimiter, state, line: 1, opened: 1, bytes: 0, faults }, kept)
    }

    fn unclosed(&self) -> io::Error {
        self.faults.borrow_mut().unclosed = Some(self.opened);
        io::Error::new(io::ErrorKind::InvalidData, "a quote is not closed")
    }

    fn follow(&mut self, byte: u8) -> io::Result<()> {
        let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
        self.state = match (self.state, byte) {
            (State::FieldStart, b'"') => {
                (self.opened, self.bytes) = (self.line, 0);
                State::Quoted
            }
            (State::FieldStart | State::Plain | State::Quote, _) if ends => State::FieldStart,
            (State::FieldStart | State::Plain, _) => State::Plain,
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) | (State::Quote, b'"') => {
                self.bytes += 1;
                if self.bytes > LONGEST {
                    return Err(self.unclosed());
                }
                State::Quoted
            }
            // More follows the quote: a quote that is not doubled, or the first quote of a later row.
            (State::Quote, _) if self.opened != self.line => return Err(self.unclosed()),
            (State::Quote, _) => {
                self.faults.borrow_mut().stray.push_back(self.line);
                State::Plain
            }
        };
        self.line += u64::from(byte == b'\n');
        Ok(())
    }
}

impl<R: BufRead> Read for Quotes<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        if n == 0 && !out.is_empty() && self.state == State::Quoted {
            return Err(self.unclosed());
        }
        out[..n].iter().try_for_each(|byte| self.follow(*byte))?;
        Ok(n)
    }
}
