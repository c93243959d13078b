package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import dev.pocketvlm.bundle.Manifest
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Memory for so many bytes of a KV cache. On Android's ART a direct buffer is Java heap: there it is SharedMemory. */
internal typealias KvMemory = (bytes: Int) -> ByteBuffer

/** Little as it takes on a JVM. */
internal fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

/**
 * A key and a value buffer a layer, [1, heads, length, head_dim], each both past and present of the decoder, which writes
 * new rows in place. Rows from [position] on, tokens, are never read.
 */
internal class KvCache(environment: OrtEnvironment, manifest: Manifest, memory: KvMemory) : AutoCloseable {
    val pasts = HashMap<String, OnnxTensor>()
    val presents = HashMap<String, OnnxTensor>()
    var position: Int = 0

    init {
        val kv = manifest.kvCache
        val type = if (kv.dtype == "int8") OnnxJavaType.INT8 else OnnxJavaType.FLOAT
        val shape = longArrayOf(1, kv.heads, kv.length.toLong(), kv.headDim)
        val bytes = Math.toIntExact(kv.heads * kv.length * kv.headDim * type.size)
        for (layer in 0 until manifest.model.layers) for (kind in listOf("key", "value")) {
            val tensor = OnnxTensor.createTensor(environment, memory(bytes), shape, type)
            pasts["past_key_values.$layer.$kind"] = tensor
            presents["present.$layer.$kind"] = tensor
        }
    }

    override fun close() = pasts.values.forEach(OnnxTensor::close)
}
