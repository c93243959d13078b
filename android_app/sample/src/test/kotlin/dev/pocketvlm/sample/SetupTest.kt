package dev.pocketvlm.sample

import android.content.Intent
import android.net.Uri
import android.view.View
import android.widget.LinearLayout
import android.widget.TextView
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import java.io.File
import java.io.RandomAccessFile
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream

/** From no bundle to an open one, in each way. */
@RunWith(RobolectricTestRunner::class)
class SetupTest {
    private val phone = Phone()

    private fun choosing(): Phone = phone.start().apply {
        waitFor("it is known what there is") { (holder.stage.value as? Stage.Choosing)?.found != null }
    }

    private fun zipped(bundle: File, place: File): File = place.apply {
        ZipOutputStream(outputStream()).use { zip ->
            for (file in bundle.walk().filter { it.isFile }) {
                zip.putNextEntry(ZipEntry(file.relativeTo(bundle).invariantSeparatorsPath))
                file.inputStream().use { it.copyTo(zip) }
                zip.closeEntry()
            }
        }
    }

    private fun importZip(zip: File) {
        phone.touch(R.id.import_zip)
        phone.answerWith(Intent().setData(Uri.fromFile(zip)))
    }

    private fun waitForProblem() = waitFor("it is said what is wrong") { phone.view<View>(R.id.notice).isShown }

    @Test
    fun `no bundle says where to get one, the imported one opens, and again at the next start`() {
        choosing()
        phone.check("no-bundle")
        importZip(phone.application.cacheDir.resolve("nothing.zip").apply { writeText("no archive") })
        waitForProblem()
        assertTrue(phone.text(R.id.notice_text), "Choose another file" in phone.text(R.id.notice_text))
        importZip(zipped(BUNDLE, phone.application.cacheDir.resolve("reader.zip")))
        phone.waitForModel()
        assertFalse(phone.view<View>(R.id.notice).isShown)
        assertFalse(phone.view<View>(R.id.screen_setup).isShown)

        phone.conversation.model.close()
        phone.application.onCreate()
        val again = Phone().start().apply { waitForModel() }
        again.menu(R.id.other_model)
        waitFor("it is listed") { again.view<LinearLayout>(R.id.found).childCount == 1 }
        again.view<View>(R.id.bundle_delete).performClick()
        waitFor("it is gone") { (again.holder.stage.value as? Stage.Choosing)?.found?.isEmpty() == true }
    }

    @Test
    fun `a download shows how far it is, pauses, goes on where it was, and opens`() {
        choosing()
        Server(BUNDLE).use { server ->
            phone.holder.download(server.address, server.digest, allowHttp = true)
            waitFor("half of the largest file is there") {
                phone.application.filesDir.walk().any { it.isFile && it.length() == server.half }
            }
            waitFor("it is shown") {
                val progress = (phone.holder.stage.value as? Stage.Fetching)?.progress
                progress != null && progress.bytesDone >= server.half
            }
            phone.touch(R.id.work_pause)
            assertEquals(phone.activity.getString(R.string.resume), phone.text(R.id.work_pause))
            assertTrue(phone.text(R.id.work_text), phone.text(R.id.work_text).startsWith("Paused at"))
            phone.check("download")
            phone.change("+land")
            assertEquals(phone.activity.getString(R.string.resume), phone.text(R.id.work_pause))
            server.goOn()
            phone.touch(R.id.work_pause)
            phone.waitForModel()
            assertTrue("nothing was kept", server.skipped > 0)
        }
    }

    @Test
    fun `what cannot be downloaded says why`() {
        choosing()
        phone.view<TextView>(R.id.download_address).text = "http://example.invalid/bundle"
        phone.view<TextView>(R.id.download_digest).text = "0".repeat(64)
        phone.touch(R.id.download)
        waitForProblem()
        assertTrue(phone.text(R.id.notice_text), "https" in phone.text(R.id.notice_text))
        Server(BUNDLE).use { server ->
            phone.holder.download(server.address, "0".repeat(64), allowHttp = true)
            waitForProblem()
            assertEquals(phone.activity.getString(R.string.no_bundle), phone.text(R.id.setup_title))
        }
    }

    @Test
    fun `without memory it says how much is needed, and tries again`() {
        push()
        phone.setFreeMemory(1 shl 20)
        phone.start()
        waitForProblem()
        assertTrue(phone.text(R.id.notice_text), "Close other apps" in phone.text(R.id.notice_text))
        phone.check("error")
        phone.setFreeMemory(4L shl 30)
        phone.touch(R.id.notice_action)
        phone.waitForModel()
    }

    @Test
    fun `a damaged bundle is refused in words, a choice of two is offered, one that ended the process is not tried again`() {
        val damaged = push(name = "damaged")
        push(name = "whole")
        phone.start()
        waitFor("both are listed") { phone.view<LinearLayout>(R.id.found).childCount == 2 }
        val largest = checkNotNull(damaged.walk().filter { it.isFile }.maxByOrNull { it.length() })
        RandomAccessFile(largest, "rw").use { it.setLength(it.length() - 1) }
        phone.view<LinearLayout>(R.id.found).getChildAt(0).find<View>(R.id.bundle_open).performClick()
        waitForProblem()
        assertTrue(phone.text(R.id.notice_text), "damaged" in phone.text(R.id.notice_text))

        phone.holder.bundles.opening = true
        phone.application.onCreate()
        val again = Phone().start()
        waitFor("it is said") { again.view<View>(R.id.notice).isShown }
        assertEquals(again.activity.getString(R.string.problem_ended), again.text(R.id.notice_text))
        waitFor("the whole one is listed") { again.view<LinearLayout>(R.id.found).childCount == 1 }
    }
}
