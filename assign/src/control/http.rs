//! As much of HTTP/1.1 (RFC 9112) as a socket between two programs of one host needs: one request a
//! connection, with a body of known length. Both sides bound what they take.

use std::io::{self, ErrorKind, Read, Write};

use httparse::{EMPTY_HEADER, Status};

/// Longest head, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest body, in bytes.
const MAX_BODY: usize = 1 << 20;
/// Most header fields.
const MAX_FIELDS: usize = 32;

/// The status of an answer after which the stream speaks another protocol.
pub const SWITCHING: u16 = 101;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// GET or POST, or what somebody sent instead.
    pub method: String,
    /// What is asked of.
    pub path: String,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 and so on.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// The stream's, or [`ErrorKind::InvalidData`] for what is no request or too long.
    pub fn read(stream: impl Read) -> io::Result<Request> {
        let parse = |head: &[u8]| {
            let mut fields = [EMPTY_HEADER; MAX_FIELDS];
            let mut request = httparse::Request::new(&mut fields);
            match request.parse(head).map_err(invalid)? {
                Status::Partial => Ok(None),
                Status::Complete(_) => {
                    let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
                    let line = (word(request.method), word(request.path));
                    Ok(Some((line, length(request.headers)?)))
                }
            }
        };
        let ((method, path), body) = read(stream, parse)?;
        Ok(Request { method, path, body })
    }

    /// Writes it.
    ///
    /// # Errors
    /// The stream's.
    pub fn write(&self, mut stream: impl Write) -> io::Result<()> {
        let Request { method, path, body } = self;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat())
    }
}

impl Response {
    /// Reads one.
    ///
    /// # Errors
    /// As [`Request::read`].
    pub fn read(stream: impl Read) -> io::Result<Response> {
        let parse = |head: &[u8]| {
            let mut fields = [EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(head).map_err(invalid)? {
                Status::Partial => Ok(None),
                Status::Complete(_) => {
                    let status = response.code.filter(|status| *status >= 100);
                    let status = status.ok_or_else(|| invalid("there is no such status"))?;
                    Ok(Some((status, length(response.headers)?)))
                }
            }
        };
        let (status, body) = read(stream, parse)?;
        Ok(Response { status, body })
    }

    /// Writes it.
    ///
    /// # Errors
    /// The stream's.
    pub fn write(&self, mut stream: impl Write) -> io::Result<()> {
        let Response { status, body } = self;
        let (phrase, length) = (phrase(*status), body.len());
        let head = format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat())
    }
}

/// Answers that the stream speaks another protocol from here on (RFC 9110, section 7.8).
///
/// # Errors
/// The stream's.
pub fn switch(mut stream: impl Write, protocol: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {SWITCHING} {}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n",
        phrase(SWITCHING)
    );
    stream.write_all(head.as_bytes())
}

fn phrase(status: u16) -> &'static str {
    match status {
        SWITCHING => "Switching Protocols",
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        _ => "Internal Server Error",
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// Bytes of the body that the head announces.
fn length(fields: &[httparse::Header<'_>]) -> io::Result<usize> {
    let named = |name: &str| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    if named("Transfer-Encoding").is_some() {
        return Err(invalid("a body in chunks is not understood here"));
    }
    let Some(field) = named("Content-Length") else { return Ok(0) };
    let text = str::from_utf8(field.value).map_err(invalid)?;
    let length: usize = text.trim().parse().map_err(invalid)?;
    if length > MAX_BODY { Err(invalid("the body is too long")) } else { Ok(length) }
}

/// Reads a head, by what `parse` finds in it, and the body that it announces.
fn read<T>(
    mut stream: impl Read,
    parse: impl Fn(&[u8]) -> io::Result<Option<(T, usize)>>,
) -> io::Result<(T, Vec<u8>)> {
    let mut head = Vec::new();
    // The head ends with an empty line; byte by byte nothing of the body is taken for it, and a
    // message is a few hundred bytes.
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(invalid("the head is too long"));
        }
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let (line, length) = parse(&head)?.ok_or_else(|| invalid("the head is not whole"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((line, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let request = Request {
            method: "POST".to_owned(),
            path: "/v1/attach".to_owned(),
            body: b"{\"devices\":[]}".to_vec(),
        };
        let mut bytes = Vec::new();
        request.write(&mut bytes).expect("room");
        assert_eq!(Request::read(bytes.as_slice()).expect("a request"), request);
        let response = Response { status: 409, body: b"{}".to_vec() };
        bytes.clear();
        response.write(&mut bytes).expect("room");
        assert!(bytes.starts_with(b"HTTP/1.1 409 Conflict\r\n"));
        assert_eq!(Response::read(bytes.as_slice()).expect("a response"), response);
    }

    #[test]
    fn what_is_no_request_is_an_error_and_nothing_is_kept_of_what_is_too_long() {
        let kind = |bytes: &[u8]| Request::read(bytes).expect_err("no request").kind();
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_HEAD));
        for bytes in [
            b"rubbish\r\n\r\n".as_slice(),
            b"GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            long.as_bytes(),
        ] {
            assert_eq!(kind(bytes), ErrorKind::InvalidData);
        }
        for end in 0..60 {
            let whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\n0123456789";
            let cut = whole.get(..end.min(whole.len())).unwrap_or_default();
            assert_eq!(kind(cut), ErrorKind::UnexpectedEof, "{end}");
        }
    }
}
