# A page that says which environment it is, with nothing but the standard library.
require "socket"

server = TCPServer.new("0.0.0.0", Integer(ENV.fetch("PORT")))
loop do
  Thread.new(server.accept) do |client|
    nil until client.gets.to_s.strip.empty?
    body = "Hello from Ruby #{RUBY_VERSION} in #{ENV.fetch("FLYLOFT_ENV", "nowhere in particular")}\n"
    client.write "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}"
    client.close
  end
end
