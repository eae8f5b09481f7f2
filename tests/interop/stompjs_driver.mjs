// Runs clients of @stomp/stompjs over TCP as standard input says, and writes what their callbacks are told.
//
// One JSON object per line both ways. In: {op, client, ...}. Out: {event, client, ...}. Bodies are base64.
// Ends with its standard input.

import { createInterface } from 'node:readline';
import { Client, Versions } from '@stomp/stompjs';
import { TCPWrapper } from '@stomp/tcp-wrapper';

const clients = new Map();

function tell(event, client, more = {}) {
  process.stdout.write(JSON.stringify({ event, client, ...more }) + '\n');
}

function content(frame) {
  return { headers: frame.headers, body: Buffer.from(frame.binaryBody ?? []).toString('base64') };
}

const operations = {
  connect({ client: name, host, port, version, outgoing, incoming, reconnect }) {
    const client = new Client({
      webSocketFactory: () => new TCPWrapper(host, port),
      stompVersions: version ? new Versions([version]) : Versions.default,
      connectHeaders: { host },
      heartbeatOutgoing: outgoing,
      heartbeatIncoming: incoming,
      reconnectDelay: reconnect,
      onConnect: frame => tell('connected', name, { ...content(frame), version: client.connectedVersion }),
      onDisconnect: frame => tell('disconnected', name, content(frame)),
      onStompError: frame => tell('error', name, content(frame)),
      onWebSocketClose: () => tell('closed', name),
      onHeartbeatReceived: () => tell('beat', name),
      onHeartbeatLost: () => tell('beat-missed', name),
      onUnhandledMessage: frame => tell('unhandled', name, content(frame)),
      onUnhandledReceipt: frame => tell('receipt', name, content(frame)),
      onUnhandledFrame: frame => tell('unhandled', name, content(frame)),
    });
    clients.set(name, { client, messages: [], transactions: new Map() });
    client.activate();
  },

  subscribe({ client: name, destination, headers }) {
    const { client, messages } = clients.get(name);
    client.subscribe(
      destination,
      message => {
        messages.push(message);
        tell('message', name, content(message));
      },
      headers,
    );
  },

  unsubscribe({ client: name, id, headers }) {
    clients.get(name).client.unsubscribe(id, headers);
  },

  publish({ client: name, destination, headers, body, binary }) {
    const bytes = Buffer.from(body, 'base64');
    const what = binary ? { binaryBody: new Uint8Array(bytes) } : { body: bytes.toString() };
    clients.get(name).client.publish({ destination, headers, ...what });
  },

  // `message`: which one, counted from 0 in the order of arrival.
  ack({ client: name, message, headers }) {
    clients.get(name).messages[message].ack(headers);
  },

  nack({ client: name, message, headers }) {
    clients.get(name).messages[message].nack(headers);
  },

  begin({ client: name, transaction }) {
    const { client, transactions } = clients.get(name);
    transactions.set(transaction, client.begin(transaction));
  },

  commit({ client: name, transaction }) {
    clients.get(name).transactions.get(transaction).commit();
  },

  abort({ client: name, transaction }) {
    clients.get(name).transactions.get(transaction).abort();
  },

  deactivate({ client: name }) {
    clients.get(name).client.deactivate();
  },
};

const lines = createInterface({ input: process.stdin });
lines.on('line', line => {
  const command = JSON.parse(line);
  operations[command.op](command);
});
lines.on('close', () => process.exit(0));
