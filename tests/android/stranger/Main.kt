package org.example

import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlm
import java.io.File
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking

/** A stranger's program: the bundle, a picture's bytes, its width and height, and a question. Prints the answer's ids. */
public fun main(arguments: Array<String>): Unit = runBlocking {
    val (bundle, picture, width, height, question) = arguments
    PocketVlm.open(File(bundle)) { step -> System.err.println(step) }.use { model ->
        val image = Image.rgb(File(picture).readBytes(), width.toInt(), height.toInt())
        val pieces = model.stream(question, listOf(image), GenerationConfig(maxNewTokens = 24)).toList()
        println(pieces.map { it.tokenId }.filter { it >= 0 })
    }
}
