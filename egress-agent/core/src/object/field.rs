//! A value that knows where in its object it stands, so that every problem names its field.

use std::fmt;

use serde_json::{Map, Value};

use super::{Labels, Problem};
use crate::policy::Protocol;

/// A value at a path. `null` is absent, as in the API.
#[derive(Clone, Copy)]
pub(crate) struct Field<'v, 'p> {
    value: &'v Value,
    path: Path<'p>,
}

/// The way from the object to a value; text only when a problem needs it.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Key(&'p Self, &'p str),
    Index(&'p Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            // A label's or an annotation's key has dots of its own.
            Self::Key(parent, key) if key.contains(['.', '/', ' ']) => write!(f, "{parent}[{key}]"),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl<'v> Field<'v, '_> {
    /// The object itself.
    pub(crate) fn root(value: &'v Value) -> Self {
        Self {
            value,
            path: Path::Root,
        }
    }

    /// A problem with this field.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.path.to_string(), message)
    }

    /// One of its fields, if it is there.
    pub(crate) fn get<'s>(&'s self, key: &'s str) -> Result<Option<Field<'v, 's>>, Problem> {
        let value = self.map()?.get(key).filter(|value| !value.is_null());
        Ok(value.map(|value| Field {
            value,
            path: Path::Key(&self.path, key),
        }))
    }

    /// One of its fields that must be there.
    pub(crate) fn require<'s>(&'s self, key: &'s str) -> Result<Field<'v, 's>, Problem> {
        self.get(key)?
            .ok_or_else(|| Problem::new(Path::Key(&self.path, key).to_string(), "is missing"))
    }

    /// A text among its fields, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'v str>, Problem> {
        self.get(key)?.map(|field| field.string()).transpose()
    }

    /// One of its fields that is false when absent.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, Problem> {
        Ok(self
            .get(key)?
            .map(|field| field.boolean())
            .transpose()?
            .unwrap_or(false))
    }

    /// Its `protocol`, TCP when absent (S16, S96).
    pub(crate) fn protocol(&self) -> Result<Protocol, Problem> {
        let Some(field) = self.get("protocol")? else {
            return Ok(Protocol::Tcp);
        };
        let name = field.string()?;
        Protocol::from_name(name)
            .ok_or_else(|| field.problem(format!("{name:?} is none of TCP, UDP and SCTP")))
    }

    /// Refuses fields with other names than these.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self
            .map()?
            .keys()
            .find(|key| !known.contains(&key.as_str()))
        {
            Some(key) => Err(Problem::new(
                Path::Key(&self.path, key).to_string(),
                "is not a known field",
            )),
            None => Ok(()),
        }
    }

    /// Its fields.
    pub(crate) fn entries<'s>(
        &'s self,
    ) -> Result<impl Iterator<Item = (&'v str, Field<'v, 's>)>, Problem> {
        Ok(self.map()?.iter().map(|(key, value)| {
            let path = Path::Key(&self.path, key.as_str());
            (key.as_str(), Field { value, path })
        }))
    }

    /// The items of a list.
    pub(crate) fn items<'s>(&'s self) -> Result<impl Iterator<Item = Field<'v, 's>>, Problem> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        Ok(list.iter().enumerate().map(|(index, value)| Field {
            value,
            path: Path::Index(&self.path, index),
        }))
    }

    /// A text.
    pub(crate) fn string(&self) -> Result<&'v str, Problem> {
        self.value.as_str().ok_or_else(|| self.wrong("a text"))
    }

    /// True or false.
    pub(crate) fn boolean(&self) -> Result<bool, Problem> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    /// Whether it is a text (and not a number, where either may stand).
    pub(crate) fn is_string(&self) -> bool {
        self.value.is_string()
    }

    /// Whether it is the number 0, which the API's types write for "not set".
    pub(crate) fn is_zero(&self) -> bool {
        self.value.as_i64() == Some(0)
    }

    /// A port number: 1–65535 (S45, S79).
    pub(crate) fn port(&self) -> Result<u16, Problem> {
        let number = self
            .value
            .as_i64()
            .ok_or_else(|| self.wrong("a whole number"))?;
        u16::try_from(number)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| self.problem(format!("{number} is no port, which is 1 to 65535")))
    }

    /// Labels, or anything else that maps texts to texts.
    pub(crate) fn labels(&self) -> Result<Labels, Problem> {
        self.entries()?
            .map(|(key, value)| Ok((key.to_owned(), value.string()?.to_owned())))
            .collect()
    }

    fn map(&self) -> Result<&'v Map<String, Value>, Problem> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong("a mapping"))
    }

    fn wrong(&self, due: &str) -> Problem {
        let is = match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        self.problem(format!("is {is} where {due} is due"))
    }
}

/// Collects problems while an object is read.
#[derive(Default)]
pub(crate) struct Notes {
    /// What could not be read.
    pub(crate) problems: Vec<Problem>,
    /// Something was needed to judge the object.
    pub(crate) unreadable: bool,
}

impl Notes {
    /// A part whose absence closes by itself: a missing address or named port matches nothing.
    pub(crate) fn minor<T: Default>(&mut self, part: Result<T, Problem>) -> T {
        part.unwrap_or_else(|problem| {
            self.problems.push(problem.so("it is left out"));
            T::default()
        })
    }

    /// A part without which the object cannot be judged.
    pub(crate) fn needed<T: Default>(&mut self, part: Result<T, Problem>) -> T {
        part.unwrap_or_else(|problem| {
            self.problems.push(problem.so("the object is unreadable"));
            self.unreadable = true;
            T::default()
        })
    }
}
