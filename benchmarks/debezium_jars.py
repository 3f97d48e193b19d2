"""`python -m benchmarks.debezium_jars`: resolve Debezium and Kafka Connect again, and rewrite their lock."""

from __future__ import annotations

from benchmarks.debezium import LOCK_PATH
from headrace.embedded.jars import write_lock
from headrace.embedded.relock import resolve

_DEBEZIUM, _CONNECT = "3.6.0.Final", "4.3.0"  # the newest of each that belong together

# What is wanted, and what the resolver would choose differently from Maven itself if it were not named.
PINS = (
    f"io.debezium:debezium-connector-postgres:{_DEBEZIUM}",
    f"io.debezium:debezium-connector-jdbc:{_DEBEZIUM}",
    *(f"org.apache.kafka:{name}:{_CONNECT}" for name in ("connect-runtime", "connect-json", "connect-api")),
    *(f"org.apache.kafka:{name}:{_CONNECT}" for name in ("connect-transforms", "kafka-clients")),
    "org.postgresql:postgresql:42.7.7",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",
    "org.hibernate.orm:hibernate-core:7.2.6.Final",
    "org.hibernate.orm:hibernate-agroal:7.2.0.Final",
    "jakarta.persistence:jakarta.persistence-api:3.2.0",
    "org.antlr:antlr4-runtime:4.13.2",
    "jakarta.servlet:jakarta.servlet-api:6.0.0",
    "jakarta.ws.rs:jakarta.ws.rs-api:3.1.0",
    "jakarta.transaction:jakarta.transaction-api:2.0.1",
    "jakarta.inject:jakarta.inject-api:2.0.1",
    "jakarta.annotation:jakarta.annotation-api:2.1.1",
    "jakarta.xml.bind:jakarta.xml.bind-api:4.0.2",
    "jakarta.validation:jakarta.validation-api:3.0.2",
)
LEAVE_OUT = (
    "org.hibernate:hibernate-agroal",  # has moved: it is org.hibernate.orm's
    "com.mysql:mysql-connector-j",
    "org.mariadb.jdbc:mariadb-java-client",
    "com.microsoft.sqlserver:mssql-jdbc",
    "com.oracle.database.jdbc:ojdbc11",
)

if __name__ == "__main__":
    write_lock(resolve(PINS, LEAVE_OUT), LOCK_PATH)
