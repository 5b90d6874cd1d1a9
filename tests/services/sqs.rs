//! ElasticMQ: SQS as strict as AWS has it.

use std::sync::OnceLock;

use super::installed::installed;
use super::server::{Server, answers_http};
use super::{keeper, ports};

/// The queue server that the tests of this process share, started by the first
/// call, which takes some seconds and blocks its thread.
pub fn sqs() -> &'static Sqs {
    static SQS: OnceLock<Sqs> = OnceLock::new();
    SQS.get_or_init(|| {
        Server::start_on_free_ports(
            Sqs::start,
            |sqs| vec![&mut sqs.server],
            |sqs| answers_http(sqs.port),
        )
    })
}

/// An ElasticMQ server on 127.0.0.1. Its queues are in its memory.
pub struct Sqs {
    server: Server,
    port: u16,
}

impl Sqs {
    fn start() -> Self {
        let port = ports::free(&["127.0.0.1"]);
        let dir = keeper::dir().join(format!("elasticmq-{port}"));
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("elasticmq.conf");
        std::fs::write(&config, Self::config(port)).unwrap();
        let arguments = [
            "-Xmx128m".to_owned(),
            "-XX:+UseSerialGC".to_owned(),
            "-XX:TieredStopAtLevel=1".to_owned(),
            "-XX:-UsePerfData".to_owned(),
            format!("-Djava.io.tmpdir={}", dir.display()),
            format!("-Dconfig.file={}", config.display()),
            "-cp".to_owned(),
            format!("{}/lib/*", installed().elasticmq.display()),
            "org.elasticmq.server.Main".to_owned(),
        ];
        let log = dir.join("log");
        let server = Server::start("ElasticMQ", &installed().java, arguments, &log);
        Self { server, port }
    }

    fn config(port: u16) -> String {
        format!(
            "include classpath(\"application.conf\")\n\
             node-address {{ protocol = http, host = \"127.0.0.1\", port = {port}, context-path = \"\" }}\n\
             rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = \"127.0.0.1\", \
             sqs-limits = strict }}\n\
             rest-stats {{ enabled = false }}\n"
        )
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of a queue, which the caller creates.
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/000000000000/{name}", self.endpoint())
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
