package dev.pocketvlm.bundle

import dev.pocketvlm.bundle.graphs.GraphRefused
import dev.pocketvlm.bundle.graphs.checkGraph
import java.nio.ByteBuffer

private const val NAMES = 450_000
private const val LETTERS = 500
private const val MOST_BYTES = 250 shl 20

/** Checks a graph with as many long names as a graph can have, and prints what is said of it: in a process of its own. */
fun main() {
    val graph = ByteBuffer.allocateDirect(MOST_BYTES)
    // written from its end to its beginning: a message's size is known once its content stands
    var at = graph.capacity()
    fun put(bytes: ByteArray) {
        at -= bytes.size
        for ((index, byte) in bytes.withIndex()) graph.put(at + index, byte)
    }
    fun field(number: Int, end: Int) = put(byteArrayOf((number shl 3 or 2).toByte()) + varint(end - at))
    fun text(number: Int, text: String) {
        val end = at
        put(text.toByteArray())
        field(number, end)
    }
    val end = at
    text(4, "Add")
    text(2, "y")
    for (index in 0 until NAMES) text(1, index.toString().padStart(LETTERS, 'n'))
    field(1, end) // a node
    field(7, end) // the graph
    for (opset in listOf("com.microsoft" to 1, "" to 21)) {
        val behind = at
        put(byteArrayOf((2 shl 3).toByte(), opset.second.toByte()))
        text(1, opset.first)
        field(8, behind)
    }
    put(byteArrayOf((1 shl 3).toByte(), 10))
    graph.position(at)
    val said = try {
        checkGraph(graph, mapOf("sequence" to 1L), emptyMap())
        "taken"
    } catch (error: GraphRefused) {
        error.message
    }
    println(said)
}

private fun varint(number: Int): ByteArray =
    if (number < 0x80) byteArrayOf(number.toByte()) else byteArrayOf((number or 0x80).toByte()) + varint(number ushr 7)
