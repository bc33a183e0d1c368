<?php
header('Content-Type: text/plain');
printf("Hello from PHP %s in %s\n", PHP_VERSION, getenv('FLYLOFT_ENV') ?: 'nowhere in particular');
