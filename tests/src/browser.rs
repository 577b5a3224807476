//! Chromium, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>): the few of its commands that tests of pages need,
//! as JSON over HTTP to chromedriver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long one command, and anything on a page, may take.
const BOUND: Duration = Duration::from_secs(90);

/// The member that a reference to an element has.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// chromedriver, which ends with this value.
pub struct Driver {
    process: Child,
    port: u16,
}

/// How a browser looks at pages.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Width of its window.
    pub width: u32,
    /// Whether it asks for dark pages.
    pub dark: bool,
    /// Whether scripts run.
    pub script: bool,
}

/// A browser with one window.
pub struct Browser<'a> {
    driver: &'a Driver,
    session: String,
    look: Look,
}

impl Driver {
    /// Starts one on a port of its own.
    pub fn start() -> Driver {
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut said = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(said.read_line(&mut line).expect("text") > 0, "chromedriver ended");
            if let Some((_, port)) = line.trim().trim_end_matches('.').rsplit_once("successfully on port ") {
                break port.parse().expect("a port");
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Driver { process, port }
    }

    /// One command; gives what it answers, or the error's message.
    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let failed = |error: std::io::Error| format!("{method} {path}: {error}");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(failed)?;
        stream.set_read_timeout(Some(BOUND)).map_err(failed)?;
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).map_err(failed)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| format!("no length: {line}"))?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut text = vec![0; length];
        answer.read_exact(&mut text).map_err(failed)?;
        let mut answer: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{method} {path}: {error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].take()),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser<'_> {
    /// Opens one.
    pub fn open(driver: &Driver, look: Look) -> Browser<'_> {
        let mut arguments = vec!["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"];
        if look.dark {
            arguments.push("--blink-settings=preferredColorScheme=0");
        }
        let scripts = if look.script { 1 } else { 2 };
        let options = json!({
            "args": arguments,
            "prefs": { "profile.managed_default_content_settings.javascript": scripts },
            "mobileEmulation": { "deviceMetrics": {
                "width": look.width, "height": 800, "pixelRatio": 1.0, "mobile": look.width < 500, "touch": false
            } }
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let made = driver
            .command("POST", "/session", &wanted)
            .expect("a session of the browser");
        let session = made["sessionId"].as_str().expect("an id").to_owned();
        Browser { driver, session, look }
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let done = self
            .driver
            .command(method, &format!("/session/{}{path}", self.session), body);
        done.unwrap_or_else(|why| panic!("{why}"))
    }

    /// How it looks.
    pub fn look(&self) -> Look {
        self.look
    }

    /// Loads a page.
    pub fn go(&self, address: &str) {
        self.command("POST", "/url", &json!({ "url": address }));
    }

    /// The page's title.
    pub fn title(&self) -> String {
        self.command("GET", "/title", &Value::Null)
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The text of the first element that fits.
    pub fn text(&self, css: &str) -> String {
        let found = self.command("POST", "/element", &json!({ "using": "css selector", "value": css }));
        let element = found[ELEMENT].as_str().unwrap_or_default();
        let text = self.command("GET", &format!("/element/{element}/text"), &Value::Null);
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Types keys into what has the focus.
    pub fn keys(&self, keys: &str) {
        let found = self.command("GET", "/element/active", &Value::Null);
        let element = found[ELEMENT].as_str().unwrap_or_default();
        self.command("POST", &format!("/element/{element}/value"), &json!({ "text": keys }));
    }

    /// Runs a script and gives what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The same of one that calls its last argument in the end.
    pub fn run_to_end(&self, script: &str) -> Value {
        self.command("POST", "/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&self, what: &str, expression: &str) {
        let begun = Instant::now();
        while self.run(&format!("return !!({expression})")) != json!(true) {
            if begun.elapsed() > BOUND {
                let text = self.run("return document.body.innerText");
                panic!("waited in vain for {what}: {}", text.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Keeps a picture of what is seen.
    pub fn picture(&self, file: &Path) {
        let picture = self.command("GET", "/screenshot", &Value::Null);
        let picture = decoded(picture.as_str().unwrap_or_default());
        std::fs::write(file, picture).expect("own folder");
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        let _ = self
            .driver
            .command("DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

/// Base64, as WebDriver gives pictures.
fn decoded(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u32> = text.bytes().filter_map(value).map(u32::from).collect();
    let four = |digits: &[u32]| {
        let number = digits.iter().fold(0, |number, digit| number << 6 | digit) << (6 * (4 - digits.len()));
        let bytes = number.to_be_bytes();
        bytes[1..digits.len()].to_vec()
    };
    digits.chunks(4).flat_map(four).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [
            ("", ""),
            ("YQ==", "a"),
            ("YWI=", "ab"),
            ("YWJj", "abc"),
            ("YWJjZA==", "abcd"),
        ] {
            assert_eq!(decoded(text), bytes.as_bytes(), "{text}");
        }
    }
}
