"""The embedded MQTT broker: amqtt, made fit for facewire."""
